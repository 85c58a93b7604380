"""The hooks of the Kunlun XPU: probe, profile and runtime.

Its settings, kernels and checks are not part of this version; see the README.
"""

from __future__ import annotations

import os

from mix_core.plugin_api import (
    DeviceProfile,
    DeviceRuntime,
    PaddleRuntime,
    Probe,
    device_files,
    hookimpl,
    installed_version,
    visible_count,
)
from mix_device_xpu.profile import PROFILE

MIX_PLUGIN_API = (1, 0)

FILES = r"xpu\d+"
PADDLE = "paddlepaddle-xpu"
VISIBLE = ("XPU_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
"""The runtime reads the first; the vendor's guide sets the second."""


@hookimpl
def mix_probe() -> Probe:
    files = device_files(FILES)
    if not files:
        return Probe("absent", 0, "no /dev/xpu* device file")
    variable = next((name for name in VISIBLE if name in os.environ), VISIBLE[0])
    count = visible_count(len(files), variable)
    paddle = installed_version(PADDLE)
    if paddle is None:
        return Probe(
            "broken", count, f"{len(files)} cards in /dev, but {PADDLE} is not installed (see the README)"
        )
    if count == 0:
        return Probe("absent", 0, f"{variable} hides all {len(files)} cards")
    return Probe("usable", count, f"{count} of {len(files)} cards, {PADDLE} {paddle}")


@hookimpl
def mix_profile() -> DeviceProfile:
    return PROFILE


@hookimpl
def mix_runtime(index: int) -> DeviceRuntime:
    return PaddleRuntime("xpu", index)
