"""A device that Paddle loads as a custom device: its library is built from device.cc into $POCKET_LIB."""

from __future__ import annotations

import os
from collections.abc import Mapping

from mix_core.plugin_api import (
    Decision,
    DeviceProfile,
    DeviceRuntime,
    PaddleRuntime,
    Probe,
    Workload,
    device_files,
    hookimpl,
)

MIX_PLUGIN_API = (1, 0)


@hookimpl
def mix_probe() -> Probe:
    folder = os.environ.get("POCKET_LIB", "")
    if not device_files(r"libpocket\.so", folder or "."):
        return Probe("absent", 0, "no libpocket.so in $POCKET_LIB")
    return Probe("usable", 2, folder)


@hookimpl
def mix_profile() -> DeviceProfile:
    return DeviceProfile("pocket", "pocket", "Test", 50, {"default": ("float32",)}, slices_alias=False)


@hookimpl
def mix_environment(workload: Workload) -> Mapping[str, Decision]:
    return {
        "CUSTOM_DEVICE_ROOT": Decision(os.environ.get("POCKET_LIB", ""), "where Paddle looks for its library")
    }


@hookimpl
def mix_stride_kernel(workload: Workload) -> Decision:
    return Decision(False, "the device has no strided copy")


@hookimpl
def mix_runtime(index: int) -> DeviceRuntime:
    return PaddleRuntime("pocket", index)
