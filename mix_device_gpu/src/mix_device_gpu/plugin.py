"""The hooks of the NVIDIA GPU: probe, profile and runtime.

Its settings, kernels and checks are not part of this version; see the README.
"""

from __future__ import annotations

from mix_core.plugin_api import (
    DeviceProfile,
    DeviceRuntime,
    PaddleRuntime,
    Probe,
    device_files,
    hookimpl,
    installed_version,
    version_in_file,
    visible_count,
)
from mix_device_gpu.profile import PROFILE

MIX_PLUGIN_API = (1, 0)

FILES = r"nvidia\d+"
PADDLE = "paddlepaddle-gpu"
VISIBLE = "CUDA_VISIBLE_DEVICES"
DRIVER_FILE = "/proc/driver/nvidia/version"


@hookimpl
def mix_probe() -> Probe:
    files = device_files(FILES)
    if not files:
        return Probe("absent", 0, "no /dev/nvidia* device file")
    count = visible_count(len(files), VISIBLE)
    paddle = installed_version(PADDLE)
    if paddle is None:
        return Probe(
            "broken", count, f"{len(files)} cards in /dev, but {PADDLE} is not installed (see the README)"
        )
    if count == 0:
        return Probe("absent", 0, f"{VISIBLE} hides all {len(files)} cards")
    driver = version_in_file(DRIVER_FILE, r"Kernel Module.*?(\d+(?:\.\d+)+)")
    return Probe("usable", count, f"{count} of {len(files)} cards, {PADDLE} {paddle}, driver {driver}")


@hookimpl
def mix_profile() -> DeviceProfile:
    return PROFILE


@hookimpl
def mix_runtime(index: int) -> DeviceRuntime:
    return PaddleRuntime("gpu", index)
