"""Choose the device of a run: argument, then MIX_DEVICE, then the configuration, then `auto`.

An explicit choice that cannot be met is an error. `auto` skips absent devices with one line each, stops on a
broken one and never starts a simulation.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from mix_core.device import discovery
from mix_core.device.names import AUTO, DeviceName, parse_device
from mix_core.device.profile import DeviceProfile
from mix_core.device.values import Probe
from mix_core.errors import BadInputError, DeviceError

VARIABLE = "MIX_DEVICE"


@dataclass(frozen=True)
class Candidate:
    """A plugin that can be loaded, with its profile and what its probe found."""

    plugin: discovery.Plugin
    profile: DeviceProfile
    probe: Probe


@dataclass(frozen=True)
class Choice:
    """The device of a run and how it came about."""

    candidate: Candidate
    index: int
    index_given: bool
    """True when the user named the index, so that a whole program may be confined to it."""
    origin: str
    """Who chose: `argument`, `MIX_DEVICE`, `configuration` or `auto`."""
    skipped: tuple[str, ...] = ()
    """One line for each absent device that `auto` passed over."""

    @property
    def name(self) -> str:
        return self.candidate.profile.name

    @property
    def place(self) -> str:
        """The device as `paddle.set_device` takes it."""
        kind = self.candidate.profile.device_type
        return kind if kind == "cpu" else f"{kind}:{self.index}"


def requested(argument: str | None, config: str | None, environ: Mapping[str, str]) -> tuple[DeviceName, str]:
    """The name that was asked for and by whom; `auto` when nobody asked."""
    for text, origin in (
        (argument, "argument"),
        (environ.get(VARIABLE), VARIABLE),
        (config, "configuration"),
    ):
        if text:
            return parse_device(text), origin
    return DeviceName(AUTO), AUTO


def choose(
    argument: str | None,
    config: str | None,
    environ: Mapping[str, str],
    *,
    needs_device: bool = True,
) -> Choice:
    """Pick the device. With `needs_device=False` an absent or broken device may be named (explain, simulate).

    Raises DeviceError when the named device is unknown or not usable, or when `auto` meets a broken plugin;
    BadInputError for an index that is not there.
    """
    wanted, origin = requested(argument, config, environ)
    entries = discovery.find_entries(environ=environ)
    if wanted.name == AUTO:
        return _choose_auto(entries, origin)
    candidate = load_candidate(find_entry(wanted.name, entries))
    index = wanted.index or 0
    found = candidate.probe
    if needs_device and found.state != "usable":
        raise DeviceError(
            f"device {wanted.name!r} (chosen by {origin}) is {found.state}: {found.reason}; "
            f"`mix-core doctor {wanted.name}` shows more"
        )
    if needs_device and found.count is not None and index >= found.count:
        raise BadInputError(f"device {wanted} does not exist: {found.count} visible ({found.reason})")
    return Choice(candidate, index, wanted.index is not None, origin)


def find_entry(name: str, entries: list[discovery.Entry]) -> discovery.Entry:
    """The one entry of this name. Raises DeviceError for none and for two."""
    matches = [entry for entry in entries if entry.name == name]
    if len(matches) > 1:
        raise DeviceError(f"device {name!r}: {two_distributions(matches)}")
    if not matches:
        names = sorted({entry.name for entry in entries})
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise DeviceError(
            f"no installed plugin provides the device {name!r}; {hint}installed: {', '.join(names)}; "
            f"install the distribution that provides it, or see `mix-core devices`"
        )
    return matches[0]


def two_distributions(entries: list[discovery.Entry]) -> str:
    who = " and ".join(f"{entry.distribution} {entry.version}" for entry in entries)
    return f"provided by two distributions, {who}; uninstall one"


def load_candidate(entry: discovery.Entry) -> Candidate:
    """Load a plugin that is wanted by name. Raises DeviceError when it is broken."""
    plugin = discovery.load(entry)
    profile = discovery.profile(plugin)
    if isinstance(profile, str):
        raise DeviceError(
            f"the plugin {entry.label} is broken: {profile}; `mix-core doctor {entry.name}` shows more"
        )
    return Candidate(plugin, profile, discovery.probe(plugin))


def _choose_auto(entries: list[discovery.Entry], origin: str) -> Choice:
    usable, skipped, broken = [], [], []
    for entry in entries:
        twins = [other for other in entries if other.name == entry.name]
        if len(twins) > 1:
            broken.append(f"{entry.name}: {two_distributions(twins)}")
            continue
        plugin = discovery.load(entry)
        profile = discovery.profile(plugin)
        if isinstance(profile, str):
            broken.append(f"{entry.label}: {profile}")
            continue
        found = discovery.probe(plugin)
        if found.state == "broken":
            broken.append(f"{entry.label}: {found.reason}")
        elif found.state == "absent" or found.count == 0:
            skipped.append(f"{entry.name} skipped: {found.reason}")
        else:
            usable.append(Candidate(plugin, profile, found))
    if broken:
        raise DeviceError(
            f"auto stops, because an installed plugin is broken: {'; '.join(dict.fromkeys(broken))}. "
            f"Repair or uninstall it, choose yourself (--device cpu or {VARIABLE}=cpu), or leave it out of "
            f"{discovery.LOAD_VARIABLE}"
        )
    if not usable:
        raise DeviceError(f"no device is usable: {'; '.join(skipped) or 'no plugin is installed'}")
    best = max(usable, key=lambda candidate: candidate.profile.priority)
    return Choice(best, 0, False, origin, tuple(skipped))
