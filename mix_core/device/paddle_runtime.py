"""A DeviceRuntime over Paddle's own device interface, for plugins whose chip needs nothing special."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mix_core.device.runtime import RandomState, pack_generator_state, unpack_generator_state

if TYPE_CHECKING:
    import numpy as np


class PaddleRuntime:
    """The index-th visible device of a Paddle device type.

    Random state is that of this one device's generator (other devices belong to other processes) and of the
    host's, which serves operators that fall back to the CPU.
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

        device, host = paddle.get_rng_state(self.place)[self.index], paddle.get_rng_state("cpu")[0]
        states = {"device": pack_generator_state(device), "host": pack_generator_state(host)}
        return {f"{whose}_{part}": array for whose, state in states.items() for part, array in state.items()}

    def set_random_state(self, state: RandomState) -> None:
        import paddle

        devices, host = paddle.get_rng_state(self.place), paddle.get_rng_state("cpu")
        devices[self.index] = unpack_generator_state(_part(state, "device"), devices[self.index])
        paddle.set_rng_state(devices, self.place)
        paddle.set_rng_state([unpack_generator_state(_part(state, "host"), host[0])], "cpu")

    def properties(self) -> dict[str, Any]:
        import paddle

        try:
            known = paddle.device.get_device_properties(self.place)
        except (RuntimeError, ValueError):  # Paddle answers for some device types only
            return {"name": self.place}
        return {"name": known.name, "memory_bytes": known.total_memory}


def _part(state: RandomState, whose: str) -> RandomState:
    return {name: state[f"{whose}_{name}"] for name in ("header", "engine")}
