"""A DeviceRuntime over Paddle's own device interface, for plugins whose chip needs nothing special."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mix_core.device.runtime import RandomState, pack_generator_state, unpack_generator_state

if TYPE_CHECKING:
    import numpy as np


class PaddleRuntime:
    """The index-th visible device of a Paddle device type.

    Random state is that of this one device's generator: other devices belong to other processes.
    """

    def __init__(self, device_type: str, index: int) -> None:
        self.place = f"{device_type}:{index}"
        self.index = index

    def synchronize(self) -> None:
        import paddle

        paddle.device.synchronize(self.place)

    def memory_stats(self) -> dict[str, int]:
        """Bytes that Paddle's allocator has handed out and taken from the device, now and at most."""
        import paddle

        device = paddle.device
        return {
            "allocated": device.memory_allocated(self.place),
            "peak": device.max_memory_allocated(self.place),
            "reserved": device.memory_reserved(self.place),
            "peak_reserved": device.max_memory_reserved(self.place),
        }

    def reset_peak_memory(self) -> None:
        import paddle

        paddle.device.reset_max_memory_allocated(self.place)
        paddle.device.reset_max_memory_reserved(self.place)

    def empty_cache(self) -> None:
        import paddle

        paddle.device.empty_cache()

    def get_random_state(self) -> dict[str, np.ndarray]:
        import paddle

        return pack_generator_state(paddle.get_rng_state(self.place)[self.index])

    def set_random_state(self, state: RandomState) -> None:
        import paddle

        states = paddle.get_rng_state(self.place)
        states[self.index] = unpack_generator_state(state, states[self.index])
        paddle.set_rng_state(states, self.place)

    def properties(self) -> dict[str, Any]:
        import paddle

        known = paddle.device.get_device_properties(self.place)
        return {
            "name": getattr(known, "name", self.place),
            "memory_bytes": getattr(known, "total_memory", None),
        }
