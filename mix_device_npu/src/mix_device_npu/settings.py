"""What an Ascend NPU wants set before Paddle starts, each value with its reason and where it is published.

Understanding and generation differ because the vendor's guide gives each its own list. Variables that only
PyTorch's Ascend extension reads are not here (docs/migrating.md says what became of them).
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from mix_core.plugin_api import AllocatorPolicy, BadInputError, Decision, Workload
from mix_device_npu import toolchain

GUIDE = "PaddleMIX's Ascend guide, release 2.1"
PLUGIN = "PaddleCustomDevice backends/npu, October 2024"
MINDSPEED = "the scripts of MindSpeed-MM's Qwen2.5-VL guide"

CONNECT_TIMEOUT = "HCCL_CONNECT_TIMEOUT"
CONNECT_TIMEOUT_S = range(120, 7201)
"""What HCCL accepts, in seconds (MindSpeed-MM's Qwen2.5-VL guide, list of environment variables)."""


def environment(workload: Workload) -> Mapping[str, Decision]:
    """Variables for this workload. Raises BadInputError for a value of the user's that the chip refuses."""
    _refuse_bad_timeout(os.environ.get(CONNECT_TIMEOUT))
    settings = dict(_GENERATION if workload.task == "generation" else _UNDERSTANDING)
    if workload.deterministic:
        settings |= _DETERMINISTIC
    if workload.simulate:
        return settings
    if workload.world_size > 1:
        settings[CONNECT_TIMEOUT] = Decision(
            1200,
            "ranks that still load weights or compile operators need more than HCCL's 120 s to connect "
            f"({MINDSPEED})",
        )
    toolkit = toolchain.find_toolkit()
    if toolkit is not None:
        settings |= toolchain.toolchain_variables(toolkit)
    return settings


def allocator(workload: Workload) -> AllocatorPolicy:
    why = "memory grows with the pictures' sizes instead of being cut from one fixed pool"
    source = f"{GUIDE}, SDXL" if workload.task == "generation" else "Paddle's default; the guide keeps it"
    return AllocatorPolicy("auto_growth", f"{why} ({source})")


def stride_kernel(workload: Workload) -> Decision:
    return Decision(
        False,
        f"the vendor's guide and tests run without views of a tensor's memory ({GUIDE}); writing into a "
        "slice then does not change its tensor",
    )


def blacklisted_ops(workload: Workload) -> Mapping[str, str]:
    """Operators that run on the CPU. The guide lists them for understanding models alone."""
    if workload.task == "generation":
        return {}
    why = f"the chip's kernel has no bfloat16 and no bool ({PLUGIN}), the list is that of {GUIDE}"
    return {"set_value": why, "set_value_with_tensor": "the same kernel's other form"}


def _refuse_bad_timeout(text: str | None) -> None:
    """HCCL itself would only say so on every rank, once the weights are loaded."""
    if text is None:
        return
    if not (text.strip().isdecimal() and int(text) in CONNECT_TIMEOUT_S):
        low, high = CONNECT_TIMEOUT_S[0], CONNECT_TIMEOUT_S[-1]
        raise BadInputError(
            f"{CONNECT_TIMEOUT}={text!r}: HCCL takes whole seconds from {low} to {high}; "
            "set one of those, or unset it"
        )


_COMMON = {
    # 0 and True as the guide writes them; the library takes 1, t, T, y and Y for true
    "FLAGS_npu_storage_format": Decision(
        0, f"no private layouts for convolution and batch norm: they convert at every border ({GUIDE})"
    ),
    "FLAGS_npu_scale_aclnn": Decision("True", f"scale by the precompiled aclnn operator ({GUIDE})"),
}
_UNDERSTANDING = _COMMON | {
    "FLAGS_npu_jit_compile": Decision(
        0, f"no operator is compiled during a step: text and pictures change shape all the time ({GUIDE})"
    ),
    "FLAGS_npu_split_aclnn": Decision("True", f"split by the precompiled aclnn operator ({GUIDE})"),
    "ACLNN_CACHE_LIMIT": Decision(
        100000,
        "the host keeps this many prepared operator calls; text and pictures of many shapes need more than "
        f"the 10000 of CANN ({MINDSPEED})",
    ),
}
_GENERATION = _COMMON | {
    "FLAGS_conv_workspace_size_limit": Decision(
        4096, f"in the SDXL list of {GUIDE}; cuDNN's convolutions read it, this chip's do not"
    ),
}
_DETERMINISTIC = {
    "npu_deterministic": Decision("true", f"the run asks for it; read by the library itself ({PLUGIN})"),
    "ACL_OP_DETERMINISTIC": Decision("true", f"the run asks for it; set beside it by the tests of {PLUGIN}"),
    "ACL_OPT_DETERMINISTIC": Decision("true", f"the run asks for it; set beside it by the tests of {PLUGIN}"),
    "HCCL_DETERMINISTIC": Decision(
        "true", f"the run asks for it; sums between ranks keep one order ({PLUGIN})"
    ),
}
