"""The hook specification that device plugins implement (pluggy project `mix_core`, plugin API 1.0).

'Before' hooks answer before paddle is imported; they import no paddle and touch no device.
docs/authoring.md explains each with an example.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pluggy

from mix_core.device.profile import DeviceProfile
from mix_core.device.runtime import DeviceRuntime
from mix_core.device.values import (
    AllocatorPolicy,
    Check,
    Decision,
    Kernel,
    KernelRequest,
    NoKernel,
    Probe,
    Workload,
)

PROJECT = "mix_core"
MIX_PLUGIN_API = (1, 0)

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec(firstresult=True)
def mix_probe() -> Probe | None:
    """Before, under 50 ms: is the device here, from device files, distributions and versions only."""


@hookspec(firstresult=True)
def mix_profile() -> DeviceProfile | None:
    """Before: what the device can do."""


@hookspec
def mix_environment(workload: Workload) -> Mapping[str, Decision] | None:
    """Before: variable to Decision. Merged; a later plugin wins."""


@hookspec(firstresult=True)
def mix_allocator(workload: Workload) -> AllocatorPolicy | None:
    """Before: the allocator's policy."""


@hookspec(firstresult=True)
def mix_stride_kernel(workload: Workload) -> Decision | None:
    """Before: whether tensors may be views (Decision of a bool)."""


@hookspec
def mix_blacklisted_ops(workload: Workload) -> Mapping[str, str] | None:
    """Before: operator to reason; these run on the CPU kernel. United."""


@hookspec(firstresult=True)
def mix_operator_support() -> Mapping[str, Any] | None:
    """Before: the chip's table of native kernels.

    {"source": where the table comes from, "operators": {kernel: [dtypes it computes in]}}, under Paddle's
    names of kernels (`add`, not the old operator's `elementwise_add`). "operators": None means every one.
    Further keys are the plugin's own.
    """


@hookspec(firstresult=True)
def mix_conformance() -> Mapping[str, Any] | None:
    """Before: the parsed conformance.toml."""


@hookspec(firstresult=True)
def mix_kernel(op: str, request: KernelRequest, profile: DeviceProfile) -> Kernel | NoKernel | None:
    """After: the kernel for one use of an operator, or None to leave it to the next."""


@hookspec(firstresult=True)
def mix_runtime(index: int) -> DeviceRuntime | None:
    """After: the runtime of the index-th visible device."""


@hookspec
def mix_checks() -> list[Check] | None:
    """In a child process of `mix-core doctor`, after activation: checks of the device. Merged."""
