"""Points Paddle at a folder whose library does not load: a text file, as a broken download leaves one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mix_core.plugin_api import (
    Decision,
    DeviceProfile,
    DeviceRuntime,
    PaddleRuntime,
    Probe,
    Workload,
    hookimpl,
)

MIX_PLUGIN_API = (1, 0)
LIBRARIES = Path(__file__).with_name("unlinked_libraries")


@hookimpl
def mix_probe() -> Probe:
    return Probe("usable", 1, "always here")


@hookimpl
def mix_profile() -> DeviceProfile:
    return DeviceProfile("unlinked", "unlinked", "Test", 50, {"default": ("float32",)})


@hookimpl
def mix_environment(workload: Workload) -> Mapping[str, Decision]:
    return {"CUSTOM_DEVICE_ROOT": Decision(str(LIBRARIES), "where Paddle looks for its library")}


@hookimpl
def mix_runtime(index: int) -> DeviceRuntime:
    return PaddleRuntime("unlinked", index)
