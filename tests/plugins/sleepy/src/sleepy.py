"""Its probe takes four times as long as it may."""

from __future__ import annotations

import time
from typing import Any

from mix_core.plugin_api import DeviceProfile, DeviceRuntime, Probe, RandomState, hookimpl

MIX_PLUGIN_API = (1, 0)


@hookimpl
def mix_probe() -> Probe:
    time.sleep(0.2)
    return Probe("usable", 1, "here after all")


@hookimpl
def mix_profile() -> DeviceProfile:
    return DeviceProfile("sleepy", "cpu", "Test", 50, {"default": ("float32",)})


@hookimpl
def mix_runtime(index: int) -> DeviceRuntime:
    return SleepyRuntime()


class SleepyRuntime:
    """The host stands in for the device."""

    def synchronize(self) -> None:
        return None

    def memory_stats(self) -> dict[str, int]:
        return {"allocated": 0, "peak": 0}

    def reset_peak_memory(self) -> None:
        return None

    def empty_cache(self) -> None:
        return None

    def get_random_state(self) -> dict[str, Any]:
        return {}

    def set_random_state(self, state: RandomState) -> None:
        return None

    def properties(self) -> dict[str, Any]:
        return {"name": "sleepy"}
