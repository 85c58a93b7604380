"""The device under test as its plugin declares it, read without paddle and without touching the device."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mix_core.device import activation, choice, discovery, settings, simulate
from mix_core.device.conformance_file import Exceptions, check_exceptions
from mix_core.device.discovery import describe
from mix_core.device.names import AUTO, parse_device
from mix_core.device.profile import Capability, DeviceProfile
from mix_core.errors import BadInputError, DeviceError

HOST = "cpu"
FLOATS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Target:
    """What is tested, and what it says of itself."""

    name: str
    """As the user gave it, `D` or `D:1`."""
    simulated: bool
    profile: DeviceProfile
    distribution: str
    version: str
    """Of the plugin's distribution."""
    module: Any = field(repr=False, compare=False)
    support: Mapping[str, Any] | None = field(repr=False, compare=False)
    """The chip's table of operators; None where the plugin has none."""
    exceptions: Exceptions = field(default_factory=Exceptions, compare=False)
    problem: str | None = None
    """Why the plugin cannot be loaded; nothing but the contract can be asked then."""

    @property
    def is_host(self) -> bool:
        return self.profile.device_type == HOST

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Floating dtypes that its operators compute in by default."""
        return tuple(d for d in (*FLOATS, "float64") if self.profile.supports_dtype(d))

    def lacks(self, *capabilities: Capability) -> str | None:
        """The rule by which a case that needs these is skipped, or None."""
        missing = [c.value for c in capabilities if not self.profile.supports(c)]
        return f"the profile does not declare {', '.join(missing)}" if missing else None

    def lacks_dtype(self, dtype: str, operator_class: str = "default") -> str | None:
        if self.profile.supports_dtype(dtype, operator_class):
            return None
        return f"the profile does not declare {dtype} for the class {operator_class}"

    @property
    def words(self) -> str:
        """Options of the command line that name this target."""
        return f"--device {self.name}" + (" --simulate" if self.simulated else "")


def find_target(name: str, *, simulated: bool) -> Target:
    """Load the plugin and ask its 'before' hooks.

    Raises:
        BadInputError: `auto`, an unknown device, the host simulated, or a wrong conformance.toml.
    """
    device = parse_device(name)
    if device.name == AUTO:
        raise BadInputError(
            "conformance is about one device: name it with --device; `mix-core devices` lists"
        )
    if simulated and device.name == HOST:
        raise BadInputError("the host cannot be simulated: name another device, or leave out --simulate")
    try:
        entry = choice.find_entry(device.name, discovery.find_entries())
    except DeviceError as error:
        raise BadInputError(str(error)) from None
    plugin = discovery.load(entry)
    profile = discovery.profile(plugin)
    if isinstance(profile, str):
        nothing = DeviceProfile(device.name, device.name, "unknown", 0, {"default": ()})
        return Target(
            name, simulated, nothing, entry.distribution, entry.version, plugin.module, None, problem=profile
        )
    said, support = _ask(plugin, "mix_conformance"), _ask(plugin, "mix_operator_support")
    return Target(
        name=name,
        simulated=simulated,
        profile=simulate.simulated(profile) if simulated else profile,
        distribution=entry.distribution,
        version=entry.version,
        module=plugin.module,
        support=support if isinstance(support, Mapping) else None,
        exceptions=check_exceptions(said, entry.name, entry.version, simulated=simulated),
    )


def _ask(plugin: discovery.Plugin, hook: str) -> Any:
    """A hook's answer; what is wrong with it is for the contract's cases to say, bad input is the user's."""
    try:
        return getattr(plugin.hooks(), hook)()
    except BadInputError:
        raise
    except Exception as error:  # noqa: BLE001 (a plugin may raise anything; L0 reports it)
        print(f"mix-core: {hook} of {plugin.entry.label} failed: {describe(error)}", file=sys.stderr)
        return None


def host_environment() -> dict[str, str]:
    """The user's environment without a choice of device or simulation, for references on the host."""
    environ = settings.user_environment(os.environ)
    for variable in list(environ):
        if variable.startswith("MIX_SIM") or variable in (choice.VARIABLE, activation.REEXEC_VARIABLE):
            del environ[variable]
    return environ
