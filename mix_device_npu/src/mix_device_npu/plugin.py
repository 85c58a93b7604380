"""The hooks of the Ascend NPU; settings, kernels, operators, runtime and checks make what they answer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mix_core.plugin_api import (
    AllocatorPolicy,
    Check,
    Decision,
    DeviceProfile,
    DeviceRuntime,
    Kernel,
    KernelRequest,
    Probe,
    Workload,
    device_files,
    hookimpl,
    installed_version,
    read_conformance,
    version_in_file,
    visible_count,
)
from mix_device_npu import operators, settings
from mix_device_npu.checks import CHECKS, DRIVER_FILE, PADDLE_PLUGIN
from mix_device_npu.kernels import AscendKernels
from mix_device_npu.profile import PROFILE
from mix_device_npu.runtime import AscendRuntime

MIX_PLUGIN_API = (1, 0)

FILES = r"davinci\d+"
VISIBLE = "ASCEND_RT_VISIBLE_DEVICES"


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
def mix_environment(workload: Workload) -> Mapping[str, Decision]:
    return settings.environment(workload)


@hookimpl
def mix_allocator(workload: Workload) -> AllocatorPolicy:
    return settings.allocator(workload)


@hookimpl
def mix_stride_kernel(workload: Workload) -> Decision:
    return settings.stride_kernel(workload)


@hookimpl
def mix_blacklisted_ops(workload: Workload) -> Mapping[str, str]:
    return settings.blacklisted_ops(workload)


@hookimpl
def mix_operator_support() -> Mapping[str, Any]:
    return operators.operator_support()


@hookimpl
def mix_conformance() -> Mapping[str, Any]:
    return read_conformance(Path(__file__).with_name("conformance.toml"))


@hookimpl
def mix_kernel(op: str, request: KernelRequest) -> Kernel | None:
    return AscendKernels().select(op, request)


@hookimpl
def mix_runtime(index: int) -> DeviceRuntime:
    return AscendRuntime(index)


@hookimpl
def mix_checks() -> list[Check]:
    return list(CHECKS)
