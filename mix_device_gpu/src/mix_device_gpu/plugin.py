"""The hooks of the NVIDIA GPU. Those that answer before Paddle is imported touch no device."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mix_core.plugin_api import (
    AllocatorPolicy,
    Check,
    Decision,
    DeviceError,
    DeviceProfile,
    DeviceRuntime,
    Kernel,
    KernelRequest,
    PaddleRuntime,
    Probe,
    Workload,
    device_files,
    hookimpl,
    installed_version,
    read_conformance,
    version_in_file,
    visible_count,
)
from mix_device_gpu import settings
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
    driver = version_in_file(DRIVER_FILE, r"Kernel Module.*?(\d+(?:\.\d+)+)")
    wanted = PROFILE.driver_versions
    if driver is not None and wanted is not None and not wanted.contains(driver):
        return Probe("broken", count, f"driver {driver} is outside {wanted.bounds} ({wanted.source})")
    if count == 0:
        return Probe("absent", 0, f"{VISIBLE} hides all {len(files)} cards")
    return Probe("usable", count, f"{count} of {len(files)} cards, {PADDLE} {paddle}, driver {driver}")


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
    return settings.operator_support()


@hookimpl
def mix_conformance() -> Mapping[str, Any]:
    return read_conformance(Path(__file__).with_name("conformance.toml"))


@hookimpl
def mix_kernel(op: str, request: KernelRequest) -> Kernel | None:
    from mix_device_gpu import kernels

    return kernels.select(op, request)


@hookimpl
def mix_runtime(index: int) -> DeviceRuntime:
    return PaddleRuntime(active_type(), index)


def active_type() -> str:
    """Paddle's type of the active device: `gpu`, or that of a simulated one.

    Raises DeviceError when none is active.
    """
    import paddle

    kind = paddle.device.get_device().partition(":")[0]
    if kind == "cpu":
        raise DeviceError("Paddle's active device is the CPU, expected a GPU: call paddle.set_device first")
    return kind


@hookimpl
def mix_checks() -> list[Check]:
    from mix_device_gpu import checks

    return list(checks.CHECKS)
