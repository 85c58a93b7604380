"""What a device can do, as its plugin declares it; every figure carries its source."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from operator import eq, ge, gt, le, lt

_BOUND = re.compile(r"(>=|<=|==|>|<)\s*(\d+(?:\.\d+)*)")
_COMPARE: dict[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]] = {
    ">=": ge,
    "<=": le,
    "==": eq,
    ">": gt,
    "<": lt,
}


class Capability(str, Enum):
    """What core asks a device instead of asking for its name."""

    ALIBI = "alibi"
    """Attention kernels take position biases."""
    COLLECTIVES = "collectives"
    """Several processes can exchange tensors."""
    CONTEXT_PARALLEL = "context_parallel"
    """One sequence can be spread over devices."""
    EVENTS = "events"
    """Device events measure time."""
    INT8_WEIGHTS = "int8_weights"
    """Frozen matrices can be kept in 8 bits in training: rows of an int8 tensor can be taken, and widened."""
    MEMORY_STATS = "memory_stats"
    """The device counts the bytes allocated on it."""
    PINNED_MEMORY = "pinned_memory"
    """Host tensors can be page-locked for copies."""
    STREAMS = "streams"
    """Work can be ordered on more than one stream."""


@dataclass(frozen=True)
class Figure:
    """A number about the hardware and where it comes from (a data sheet, a measurement, a file)."""

    value: float
    source: str

    def __post_init__(self) -> None:
        if not self.source.strip():
            raise ValueError(f"the figure {self.value} has no source: say where it comes from")


@dataclass(frozen=True)
class VersionRange:
    """Versions a plugin is meant for, a comma list of bounds (`>=3.3.1,<3.4`), and where that comes from."""

    bounds: str
    source: str

    def __post_init__(self) -> None:
        for bound in self.bounds.split(","):
            if _BOUND.fullmatch(bound.strip()) is None:
                raise ValueError(f"version bound {bound!r} is not of the form >=1.2 (or >, <=, <, ==)")

    def contains(self, version: str) -> bool:
        """Whether a version meets all bounds; only its leading numbers count (3.4.0.dev1 is 3.4.0)."""
        have = _numbers(version)
        for bound in self.bounds.split(","):
            operator, limit = _BOUND.fullmatch(bound.strip()).groups()  # type: ignore[union-attr]
            wanted = _numbers(limit)
            width = max(len(have), len(wanted))
            if not _COMPARE[operator](_padded(have, width), _padded(wanted, width)):
                return False
        return True


@dataclass(frozen=True)
class Collective:
    """The backend of collectives between processes and what it cannot do."""

    backend: str
    """Name given to Paddle, for example `gloo`."""
    dtypes_refused: frozenset[str] = frozenset()
    """dtypes that an all-reduce does not take; core converts and counts."""
    gather_by_all_gather: bool = False
    """True when `gather` does not exist and `all_gather` has to stand in."""
    scatter_by_all_reduce: bool = False
    """True when `reduce_scatter` does not exist and `all_reduce` has to stand in."""


@dataclass(frozen=True)
class DeviceProfile:
    """Everything that core knows about a device without touching it."""

    name: str
    """The name users type; equal to the entry point's."""
    device_type: str
    """Paddle's name of the place, for `paddle.set_device`."""
    vendor: str
    priority: int
    """`auto` takes the usable device of highest priority; the CPU has 0."""
    dtypes: Mapping[str, tuple[str, ...]]
    """Operator class (`default`, `matmul`, `attention`, `convolution`, ...) to the dtypes it computes in.

    `products` are those that float32 tensors may be multiplied in, where tensors have no such dtype.
    """
    custom_device: bool = True
    """False where Paddle itself knows `device_type`; a simulated device then bears another name."""
    capabilities: frozenset[Capability] = frozenset()
    collective: Collective | None = None
    launcher_variable: str | None = None
    """Variable by which a launcher tells one rank its device, for example FLAGS_selected_<type>s."""
    visible_devices_variable: str | None = None
    min_loader_workers: int = 0
    """Least number of data workers; 1 where loading in the training thread contends with the device."""
    slices_alias: bool = True
    """False where writing into a slice does not change its tensor (stride kernels off)."""
    peak_flops: Mapping[str, Figure] = field(default_factory=dict)
    """Floating point operations per second by dtype, dense matrix products."""
    memory_bytes: Figure | None = None
    memory_bandwidth: Figure | None = None
    """Bytes per second."""
    link_bandwidths: Mapping[str, Figure] = field(default_factory=dict)
    """Bytes per second by kind of link (`device`, `host`, `network`)."""
    paddle_versions: VersionRange | None = None
    driver_versions: VersionRange | None = None
    sdk_versions: VersionRange | None = None
    not_run_on_hardware: tuple[str, ...] = ()
    """What of this plugin was never run on the chip itself; `mix-core doctor` says so."""

    def __post_init__(self) -> None:
        if "default" not in self.dtypes:
            raise ValueError(
                f"profile of {self.name!r}: dtypes has no class 'default', only {sorted(self.dtypes)}"
            )
        wrong = [c for c in self.capabilities if not isinstance(c, Capability)]
        if wrong:
            known = ", ".join(c.value for c in Capability)
            raise ValueError(f"profile of {self.name!r}: {wrong!r} is no Capability; known are {known}")

    def supports(self, capability: Capability) -> bool:
        return capability in self.capabilities

    def supports_dtype(self, dtype: str, operator_class: str = "default") -> bool:
        """Whether operators of this class compute in `dtype` (`float32`, `bfloat16`, ...)."""
        return dtype in self.dtypes.get(operator_class, self.dtypes["default"])


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: 3.3.1.post2 is (3, 3, 1)."""
    match = re.match(r"\d+(?:\.\d+)*", version.strip())
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def _padded(numbers: tuple[int, ...], width: int) -> tuple[int, ...]:
    return numbers + (0,) * (width - len(numbers))
