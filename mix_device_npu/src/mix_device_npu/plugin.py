"""The hooks of the Ascend NPU: probe, profile and runtime.

Its settings, black list, kernels and checks are not part of this version; see the README.
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
from mix_device_npu.profile import PROFILE

MIX_PLUGIN_API = (1, 0)

FILES = r"davinci\d+"
PADDLE_PLUGIN = "paddle-custom-npu"
VISIBLE = "ASCEND_RT_VISIBLE_DEVICES"
DRIVER_FILE = "/usr/local/Ascend/driver/version.info"


@hookimpl
def mix_probe() -> Probe:
    files = device_files(FILES)
    if not files:
        return Probe("absent", 0, "no /dev/davinci* device file")
    count = visible_count(len(files), VISIBLE)
    plugin = installed_version(PADDLE_PLUGIN)
    if plugin is None:
        return Probe(
            "broken",
            count,
            f"{len(files)} cards in /dev, but {PADDLE_PLUGIN} is not installed (see the README)",
        )
    driver = version_in_file(DRIVER_FILE, r"(?m)^Version=(\S+)")
    wanted = PROFILE.driver_versions
    if driver is not None and wanted is not None and not wanted.contains(driver):
        return Probe("broken", count, f"driver {driver} is outside {wanted.bounds} ({wanted.source})")
    if count == 0:
        return Probe("absent", 0, f"{VISIBLE} hides all {len(files)} cards")
    return Probe("usable", count, f"{count} of {len(files)} cards, {PADDLE_PLUGIN} {plugin}, driver {driver}")


@hookimpl
def mix_profile() -> DeviceProfile:
    return PROFILE


@hookimpl
def mix_runtime(index: int) -> DeviceRuntime:
    return PaddleRuntime("npu", index)
