"""What a plan takes a device and its links to be: figures of its profile, of the user, or assumed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mix_core.device.profile import Capability, DeviceProfile, Figure
from mix_core.errors import BadInputError

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|KB|MB|GB|KiB|MiB|GiB)")
_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}

ASSUMED = "assumed, because neither the device's profile nor an option says it"
ROUND = {
    "peak_flops": 300e12,
    "memory_bandwidth": 1.5e12,
    "link_bandwidth": 150e9,
    "network_bandwidth": 25e9,
    "latency_s": 10e-6,
    "devices_per_host": 8,
    "efficiency": 0.6,
}
"""Round figures of a training device of 2023; a plan that uses one says so."""


@dataclass(frozen=True)
class Machine:
    """Devices of one kind, several of them on each host."""

    peak_flops: float
    """Of one device, products in the run's dtype, flop/s."""
    memory_bandwidth: float
    """Bytes per second between a device and its memory."""
    link_bandwidth: float
    """Bytes per second out of one device, to others of its host."""
    network_bandwidth: float
    """Bytes per second out of one device, to other hosts."""
    latency_s: float
    """Of one message."""
    devices_per_host: int
    efficiency: float
    """Share of the peak that large products reach."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Of each figure."""

    def bandwidth(self, reach: int) -> float:
        """Among so many consecutive devices: of the host's links where one host has them all."""
        return self.link_bandwidth if reach <= self.devices_per_host else self.network_bandwidth


def figures_of(given: Sequence[str]) -> dict[str, float]:
    """`name=value` texts. Raises BadInputError for an unknown name and for what is no number."""
    figures = {}
    for text in given:
        name, _, value = text.partition("=")
        if name not in ROUND:
            raise BadInputError(f"--figure {text!r}: {name!r} is none of {', '.join(ROUND)}")
        try:
            figures[name] = float(value)
        except ValueError:
            raise BadInputError(f"--figure {text!r}: expected a number after {name}=") from None
    return figures


def machine_of(profile: DeviceProfile | None, dtype: str, given: Mapping[str, float]) -> Machine:
    """`given` before the profile's, before ROUND's.

    Raises BadInputError for a figure that is not above 0, and for an efficiency above 1.
    """
    known: dict[str, Figure | None] = {}
    if profile is not None:
        known = {
            "peak_flops": profile.peak_flops.get(dtype),
            "memory_bandwidth": profile.memory_bandwidth,
            "link_bandwidth": profile.link_bandwidths.get("device"),
            "network_bandwidth": profile.link_bandwidths.get("network"),
        }
    values: dict[str, float] = {}
    sources: dict[str, str] = {}
    for name, assumed in ROUND.items():
        option, figure = given.get(name), known.get(name)
        if option is not None:
            if not option > 0 or (name == "efficiency" and option > 1):
                most = ", at most 1" if name == "efficiency" else ""
                raise BadInputError(f"--figure {name}={option:g}: expected a number above 0{most}")
            values[name], sources[name] = option, "given"
        elif figure is not None:
            values[name], sources[name] = figure.value, figure.source
        else:
            values[name], sources[name] = assumed, ASSUMED
    per_host = max(1, int(values.pop("devices_per_host")))
    return Machine(devices_per_host=per_host, sources=sources, **values)


def memory_of(text: str | None, profile: DeviceProfile | None) -> int:
    """Bytes of a device's memory: the option's, else the profile's.

    Raises BadInputError for a text without a unit, and where nobody says it.
    """
    if text is not None:
        match = _SIZE.fullmatch(text.strip())
        size = int(float(match[1]) * _UNITS[match[2]]) if match else 0
        if size < 1 << 20:
            raise BadInputError(f"--memory is {text!r}; expected a size with its unit, for example 64GiB")
        return size
    if profile is None or profile.memory_bytes is None:
        whose = (
            "no --device names a profile" if profile is None else f"the profile of {profile.name} has no size"
        )
        raise BadInputError(f"how much memory has a device? {whose}; give --memory, for example 64GiB")
    return int(profile.memory_bytes.value)


def check_devices(profile: DeviceProfile | None, devices: int) -> None:
    """Raises BadInputError for no devices, and for several that cannot exchange tensors."""
    if devices < 1:
        raise BadInputError(f"--devices is {devices}; expected 1 or more")
    if devices > 1 and profile is not None and not profile.supports(Capability.COLLECTIVES):
        raise BadInputError(
            f"--devices is {devices}, and device {profile.name} has no collectives; give --devices 1"
        )
