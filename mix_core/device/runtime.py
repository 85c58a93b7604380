"""What a running device offers to the training loop and to inference, beside its operators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np

RandomState = Mapping[str, "np.ndarray"]


@runtime_checkable
class DeviceRuntime(Protocol):
    """One device of this process. Every plugin returns one from `mix_runtime(index)`."""

    def synchronize(self) -> None:
        """Wait until everything that was asked of the device is done."""

    def memory_stats(self) -> dict[str, int]:
        """Bytes: at least `allocated` (now) and `peak` (highest since the start or the last reset)."""

    def reset_peak_memory(self) -> None:
        """Let `peak` start again from what is allocated now, where the device can."""

    def empty_cache(self) -> None:
        """Give memory that the allocator holds unused back to the system."""

    def get_random_state(self) -> dict[str, np.ndarray]:
        """The device generator's state as plain arrays, fit for a safetensors file."""

    def set_random_state(self, state: RandomState) -> None:
        """Put back what `get_random_state` returned."""

    def properties(self) -> dict[str, Any]:
        """Facts about the device at hand, for reports: name, memory_bytes, driver..."""


def pack_generator_state(state: Any) -> dict[str, np.ndarray]:
    """Take a Paddle GeneratorState apart into arrays, so that storing it needs no pickle."""
    import numpy as np

    device, seed, offset, engine = state.__getstate__()
    return {
        "header": np.array([device, seed, offset], dtype=np.int64),
        "engine": np.array(engine, dtype=np.uint8),
    }


def unpack_generator_state(state: RandomState, like: Any) -> Any:
    """Build a Paddle GeneratorState (of the type of `like`) from the arrays of `pack_generator_state`."""
    kind: Any = type(like)
    made = kind.__new__(kind)
    device, seed, offset = (int(v) for v in state["header"])
    made.__setstate__((device, seed, offset, [int(v) for v in state["engine"]]))
    return made
