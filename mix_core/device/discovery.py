"""Find device plugins in the installed distributions and load each on its own.

Metadata is read first: nothing is imported until a plugin is wanted. Each plugin is loaded and validated in a
manager of its own, so that a broken one is reported and never fatal to others.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from mix_core.device import hookspec, trace
from mix_core.device.profile import DeviceProfile
from mix_core.device.values import Probe

DEVICES_GROUP = "mix_core.devices"
OVERLAYS_GROUP = "mix_core.overlays"
LOAD_VARIABLE = "MIX_DEVICES_LOAD"
OWN_DISTRIBUTION = "mix-core"

REQUIRED_HOOKS = ("mix_probe", "mix_profile", "mix_runtime")
OVERLAY_HOOKS = frozenset({"mix_kernel", "mix_environment"})


@dataclass(frozen=True)
class Entry:
    """An entry point of one of the two groups, as its distribution's metadata states it."""

    name: str
    distribution: str
    version: str
    source: str
    """What the entry point loads, for example `mix_core.device.cpu`."""
    entry_point: EntryPoint = field(repr=False, compare=False)

    @property
    def label(self) -> str:
        return f"{self.name} ({self.distribution} {self.version})"


@dataclass(frozen=True)
class Plugin:
    """An entry after the attempt to load it: `problem` says why it cannot be used."""

    entry: Entry
    module: Any = field(default=None, repr=False)
    api: tuple[int, int] | None = None
    problem: str | None = None
    warnings: tuple[str, ...] = ()

    def hooks(self) -> pluggy.HookRelay:
        """The hooks of this plugin alone."""
        manager = new_manager()
        manager.register(self.module, name=self.entry.name)
        return manager.hook


def new_manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(hookspec.PROJECT)
    manager.add_hookspecs(hookspec)
    trace.attach(manager)
    return manager


def find_entries(group: str = DEVICES_GROUP, environ: Mapping[str, str] | None = None) -> list[Entry]:
    """List the entries of a group, sorted by name, without importing any.

    MIX_DEVICES_LOAD, when set, names the ones to consider (a comma list, empty for none); what mix-core
    brings itself is always there.
    """
    wanted = (os.environ if environ is None else environ).get(LOAD_VARIABLE)
    allowed = None if wanted is None else {part.strip() for part in wanted.split(",")}
    found = []
    for point in entry_points(group=group):
        distribution = point.dist.name if point.dist else "unknown"
        if allowed is not None and distribution != OWN_DISTRIBUTION and point.name not in allowed:
            continue
        version = point.dist.version if point.dist else "unknown"
        found.append(Entry(point.name, distribution, version, point.value, point))
    return sorted(found, key=lambda entry: (entry.name, entry.distribution))


def load(entry: Entry, *, overlay: bool = False) -> Plugin:
    """Import and validate one plugin. Never raises for what the plugin does wrong: see `Plugin.problem`."""
    had_paddle = "paddle" in sys.modules
    try:
        module = entry.entry_point.load()
    except (Exception, SystemExit) as error:  # noqa: BLE001 (a plugin may raise anything)
        return Plugin(entry, problem=f"cannot be imported: {describe(error)}")
    if "paddle" in sys.modules and not had_paddle:
        return Plugin(entry, module, problem="imports paddle when it is imported; hooks 'before' must not")
    api, refusal, warnings = _check_api(module)
    if refusal:
        return Plugin(entry, module, api, refusal)
    problem, more = _check_hooks(entry, module, newer=bool(warnings), overlay=overlay)
    return Plugin(entry, module, api, problem, (*warnings, *more))


def probe(plugin: Plugin) -> Probe:
    """Ask a plugin whether its device is here; whatever goes wrong is an answer, `broken`."""
    if plugin.problem:
        return Probe("broken", None, plugin.problem)
    had_paddle = "paddle" in sys.modules
    try:
        result = plugin.hooks().mix_probe()
    except (Exception, SystemExit) as error:  # noqa: BLE001 (a plugin may raise anything)
        return Probe("broken", None, f"mix_probe failed: {describe(error)}")
    if "paddle" in sys.modules and not had_paddle:
        return Probe("broken", None, "mix_probe imports paddle; it must look at files and versions only")
    if not isinstance(result, Probe):
        return Probe("broken", None, f"mix_probe returned {result!r}, not a Probe")
    return result


def profile(plugin: Plugin) -> DeviceProfile | str:
    """The plugin's profile, or a sentence that says why there is none."""
    if plugin.problem:
        return plugin.problem
    try:
        result = plugin.hooks().mix_profile()
    except (Exception, SystemExit) as error:  # noqa: BLE001 (a plugin may raise anything)
        return f"mix_profile failed: {describe(error)}"
    if not isinstance(result, DeviceProfile):
        return f"mix_profile returned {result!r}, not a DeviceProfile"
    if result.name != plugin.entry.name:
        return (
            f"its profile is named {result.name!r}, its entry point {plugin.entry.name!r}; they must be equal"
        )
    return result


def describe(error: BaseException) -> str:
    """One line for an exception that is not ours."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _check_api(module: Any) -> tuple[tuple[int, int] | None, str | None, tuple[str, ...]]:
    """Compare the plugin's API version with ours: (version, refusal or None, warnings)."""
    api = getattr(module, "MIX_PLUGIN_API", None)
    ours = hookspec.MIX_PLUGIN_API
    if not (isinstance(api, tuple) and len(api) == 2 and all(type(part) is int for part in api)):
        return None, f"declares MIX_PLUGIN_API = {api!r}; expected {ours!r}", ()
    wanted, have = _dotted(api), _dotted(ours)
    if api[0] != ours[0]:
        fix = "upgrade mix-core" if api[0] > ours[0] else "upgrade the plugin"
        return api, f"is written for plugin API {wanted}, mix-core has {have}: {fix}", ()
    if api[1] > ours[1]:
        return api, None, (f"is written for plugin API {wanted}, newer than mix-core's {have}",)
    return api, None, ()


def _check_hooks(
    entry: Entry, module: Any, *, newer: bool, overlay: bool
) -> tuple[str | None, tuple[str, ...]]:
    """Register in a manager of its own: (problem or None, warnings)."""
    manager = new_manager()
    try:
        manager.register(module, name=entry.name)
    except pluggy.PluginValidationError as error:
        return describe(error), ()
    callers = manager.get_hookcallers(module) or []
    names = {caller.name for caller in callers}
    unknown = sorted(c.name for c in callers if not c.has_spec() and not _all_optional(c.get_hookimpls()))
    if unknown and not newer:
        return f"implements hooks that mix-core does not have: {', '.join(unknown)}", ()
    warnings = (f"its hooks {', '.join(unknown)} are newer than mix-core: not used",) if unknown else ()
    if overlay:
        served = getattr(module, "MIX_OVERLAY_DEVICES", None)
        if not isinstance(served, tuple) or not all(isinstance(name, str) for name in served):
            return f"declares MIX_OVERLAY_DEVICES = {served!r}; expected a tuple of device names", warnings
        beyond = sorted(names - OVERLAY_HOOKS)
        if beyond:
            return f"is an overlay and may not implement {', '.join(beyond)}", warnings
        return None, warnings
    missing = [name for name in REQUIRED_HOOKS if name not in names]
    return (f"does not implement {', '.join(missing)}" if missing else None), warnings


def _all_optional(impls: Iterable[pluggy.HookImpl]) -> bool:
    return all(impl.optionalhook for impl in impls)


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
