"""The hooks of the ACME accelerator.

There is no such chip: its device files lie in the folder $ACME_DEV, and its kernels run on the host.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from mix_core.plugin_api import (
    AllocatorPolicy,
    Capability,
    Check,
    Decision,
    DeviceError,
    DeviceProfile,
    DeviceRuntime,
    Figure,
    Kernel,
    KernelRequest,
    Probe,
    RandomState,
    VersionRange,
    Workload,
    device_files,
    hookimpl,
    pack_generator_state,
    unpack_generator_state,
    visible_count,
)

MIX_PLUGIN_API = (1, 0)

SHEET = "ACME data sheet, 2nd edition"
VISIBLE = "ACME_VISIBLE_DEVICES"


@hookimpl
def mix_probe() -> Probe:
    folder = os.environ.get("ACME_DEV", "/dev")
    files = device_files(r"acme\d+", folder)
    if not files:
        return Probe("absent", 0, f"no {folder}/acme* device file")
    if not os.path.exists(os.path.join(folder, "acmectl")):
        return Probe("broken", len(files), f"{folder}/acmectl is missing: load the driver")
    return Probe("usable", visible_count(len(files), VISIBLE), f"{len(files)} cards in {folder}")


@hookimpl
def mix_profile() -> DeviceProfile:
    return DeviceProfile(
        name="acme",
        device_type="cpu",  # a real chip names its own Paddle device type
        vendor="ACME",
        priority=100,
        dtypes={"default": ("float32",)},
        capabilities=frozenset({Capability.MEMORY_STATS}),
        visible_devices_variable=VISIBLE,
        slices_alias=False,
        peak_flops={"float32": Figure(1.5e12, SHEET)},
        memory_bytes=Figure(16 << 30, SHEET),
        paddle_versions=VersionRange(">=3.3,<4", "tested by us"),
    )


@hookimpl
def mix_environment(workload: Workload) -> Mapping[str, Decision]:
    settings = {
        "ACME_QUEUE": Decision(4, "four queues keep the chip busy"),
        "ACME_HEAP": Decision("big", "the loader reads it at the start", "process"),
        "ACME_TOOLS": Decision(("/opt/acme/lib", "/opt/acme/plugins"), "where the compiler looks"),
        "FLAGS_check_nan_inf": Decision(True, "the chip clamps infinities in silence", "runtime"),
    }
    if workload.task == "generation":
        settings["ACME_TILES"] = Decision("on", "large feature maps are cut into tiles")
    return settings


@hookimpl
def mix_allocator(workload: Workload) -> AllocatorPolicy:
    return AllocatorPolicy(
        "auto_growth",
        "images of changing size fragment a fixed pool",
        {"FLAGS_auto_growth_chunk_size_in_mb": Decision(64, "fewer calls of the driver")},
    )


@hookimpl
def mix_stride_kernel(workload: Workload) -> Decision:
    return Decision(False, "the chip has no strided copy")


@hookimpl
def mix_blacklisted_ops(workload: Workload) -> Mapping[str, str]:
    return {"set_value": "wrong for bool", "cumsum": "slower than the host's"}


@hookimpl
def mix_kernel(op: str, request: KernelRequest) -> Kernel | None:
    if op == "swiglu" and request.dtype == "float32":
        return Kernel(swiglu, "acme swiglu", reason="one pass instead of three")
    return None


def swiglu(gate: Any, up: Any) -> Any:
    """gate, up (..., D) -> silu(gate) * up."""
    import paddle.nn.functional as F

    return F.silu(gate) * up


class AcmeRuntime:
    """One card. The host stands in for it."""

    def __init__(self, index: int) -> None:
        self.index = index

    def synchronize(self) -> None:
        return None

    def memory_stats(self) -> dict[str, int]:
        return {"allocated": 0, "peak": 0}

    def reset_peak_memory(self) -> None:
        return None

    def empty_cache(self) -> None:
        return None

    def get_random_state(self) -> dict[str, Any]:
        import paddle

        return pack_generator_state(paddle.get_rng_state("cpu")[0])

    def set_random_state(self, state: RandomState) -> None:
        import paddle

        like = paddle.get_rng_state("cpu")[0]
        paddle.set_rng_state([unpack_generator_state(state, like)], "cpu")

    def properties(self) -> dict[str, Any]:
        return {"name": f"ACME {self.index}"}


@hookimpl
def mix_runtime(index: int) -> DeviceRuntime:
    return AcmeRuntime(index)


@hookimpl
def mix_checks() -> list[Check]:
    return [Check("queues", check_queues)]


def check_queues() -> str:
    if os.environ.get("ACME_QUEUE") != "4":
        raise DeviceError(f"ACME_QUEUE is {os.environ.get('ACME_QUEUE')!r}, expected '4'")
    return "4 queues"
