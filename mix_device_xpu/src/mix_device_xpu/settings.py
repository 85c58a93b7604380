"""What a Kunlun XPU wants set before Paddle starts, each value with its reason and where it is published.

The vendor's guide (Qwen2.5-VL) has two variables; both hold for either task. What paddleformers' launcher
sets beside them was chosen for language models, so generation, which no guide covers, gets the two alone.
No variable was found that makes the chip's results reproducible: `deterministic` sets nothing, it only leaves
out what lets the library choose the precision of a product.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from mix_core.plugin_api import AllocatorPolicy, Decision, Workload
from mix_device_xpu.profile import GUIDE

LAUNCHER = "paddleformers' launcher"
RDMA_CARDS = "BKCL_RDMA_NICS"
"""Names a site's network cards. Only the user can know them; with them set, collectives go over RDMA."""


def environment(workload: Workload) -> Mapping[str, Decision]:
    """Variables for this workload. The user's RDMA cards decide whether those of RDMA are among them."""
    settings: dict[str, Decision] = {}
    if workload.task == "understanding":
        settings |= _MEMORY
        if workload.dtype == "bfloat16" and not workload.deterministic:
            settings |= _PRODUCTS
    if workload.world_size > 1:
        settings |= _COLLECTIVES
        if os.environ.get(RDMA_CARDS):
            settings |= _RDMA
    return settings


def allocator(workload: Workload) -> AllocatorPolicy:
    why = "memory grows with the pictures' sizes instead of being cut from one fixed pool"
    return AllocatorPolicy("auto_growth", f"{why} ({_source(workload)})")


def stride_kernel(workload: Workload) -> Decision:
    return Decision(
        False,
        "views of one tensor's memory are off, writing into a slice does not change its tensor "
        f"({_source(workload)}; {LAUNCHER} sets 1 for its own models)",
    )


def blacklisted_ops(workload: Workload) -> Mapping[str, str]:
    """None is published for this chip, and the variable reaches custom devices alone."""
    return {}


def _source(workload: Workload) -> str:
    return f"{GUIDE}, which covers understanding" if workload.task == "generation" else GUIDE


_MEMORY = {
    "XPU_PADDLE_L3_SIZE": Decision(
        0, f"Paddle takes none of the L3 memory, the kernels share it ({LAUNCHER})"
    ),
    "XPUAPI_DEFAULT_SIZE": Decision(
        2205258752, f"bytes of scratch memory made at once, not grown during steps ({LAUNCHER})"
    ),
}
_PRODUCTS = {
    "XPU_PADDLE_FC_LOCAL_INT16": Decision(
        1, f"float32 products left in a bfloat16 run use blockwise int16 ({LAUNCHER}); not in float32 runs"
    ),
    "XPU_AUTO_BF16_TF32": Decision(
        1, f"the library picks TF32 or bfloat16 for a product in a bfloat16 run ({LAUNCHER})"
    ),
    # the spelling is the library's
    "XPU_AUTO_BF16_TF32_RADIO": Decision(10, f"the share that goes with XPU_AUTO_BF16_TF32 ({LAUNCHER})"),
}
_COLLECTIVES = {
    "CUDA_DEVICE_MAX_CONNECTIONS": Decision(
        8, f"queues to the chip, so that collectives run beside computation ({LAUNCHER})"
    ),
    "BKCL_TREE_THRESHOLD": Decision(0, f"no size is sent by the tree algorithm ({LAUNCHER})"),
    "BKCL_FORCE_L3_RDMA": Decision(0, f"buffers of the network stay out of L3 memory ({LAUNCHER})"),
    "BKCL_USE_AR": Decision(1, f"adaptive routing between cards ({LAUNCHER})"),
    "BKCL_RING_OPT": Decision(1, f"the tuned ring of the collective library ({LAUNCHER})"),
    "BKCL_RING_HOSTID_USE_RANK": Decision(
        1, f"hosts are told apart by rank: containers may share a host name ({LAUNCHER})"
    ),
}
_RDMA = {
    "BKCL_ENABLE_XDR": Decision(
        1, f"collectives over RDMA, because {RDMA_CARDS} names its cards ({LAUNCHER})"
    ),
    "BKCL_RDMA_FORCE_TREE": Decision(1, f"between hosts by tree over RDMA ({LAUNCHER})"),
}
