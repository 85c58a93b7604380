"""A faster swiglu and one more variable for the device acme."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mix_core.plugin_api import Decision, Kernel, KernelRequest, Workload, hookimpl

MIX_PLUGIN_API = (1, 0)
MIX_OVERLAY_DEVICES = ("acme",)


@hookimpl
def mix_environment(workload: Workload) -> Mapping[str, Decision]:
    return {
        "ACME_QUEUE": Decision(8, "the fast kernel fills eight queues"),
        "ACME_TOOLS": Decision(("/opt/overlay",), "where the fast kernel lies"),
    }


@hookimpl
def mix_kernel(op: str, request: KernelRequest) -> Kernel | None:
    return Kernel(swiglu, "overlay swiglu", reason="half the time") if op == "swiglu" else None


def swiglu(gate: Any, up: Any) -> Any:
    """gate, up (..., D) -> silu(gate) * up."""
    import paddle.nn.functional as F

    return up * F.silu(gate)
