"""What to do about a kernel that a chip does not compute: one line for each."""

from __future__ import annotations

from collections.abc import Set

FLOATS = ("float32", "float16", "bfloat16", "float64")
WHOLE = ("int64", "int32")

_HOST_INDEX = "indices are known before the device is: make them with numpy, and gather by them"
_RESIZE = "resize on the host: pictures in the processor, position tables once when weights are loaded"
_WRITE = "write into numpy arrays before they become tensors, or choose with paddle.where"
_LOSS = "take the loss in float32: mix_core.ops.linear_cross_entropy"
_ATTENTION = "mix_core.ops.attention and attention_packed choose a kernel that the chip has"

PORTABLE = {
    "bernoulli": "compare paddle.rand, in float32, with the rate; cast the result",
    "bicubic_interp": _RESIZE,
    "bilinear_interp": _RESIZE,
    "conv3d": "where the stride is the kernel (patch embedding): cut into patches, then one matrix product",
    "cross_entropy_with_softmax": _LOSS,
    "cumsum": "of lengths: on the host with numpy; of probabilities: in float32",
    "div_scale": "a tensor divided by a number: multiply by its reciprocal, or divide by a tensor",
    "dropout": "draw in float32 and cast the mask",
    "flash_attn": _ATTENTION,
    "flash_attn_unpadded": _ATTENTION,
    "fused_rotary_position_embedding": "mix_core.ops.rotary",
    "group_norm": "mix_core.ops.group_norm: in float32, rounded at the end",
    "index_add": "fetch by the inverse index (gather), or a product with one-hot rows",
    "linspace": "numpy.linspace on the host",
    "log_softmax": _LOSS,
    "masked_select": "numpy.flatnonzero of the mask on the host, then gather",
    "nll_loss": _LOSS,
    "outer": "a product of a column and a row (matmul)",
    "repeat_interleave": _HOST_INDEX,
    "repeat_interleave_with_tensor_index": _HOST_INDEX,
    "rms_norm": "mix_core.ops.rms_norm",
    "set_value": _WRITE,
    "set_value_with_tensor": _WRITE,
    "unique": _HOST_INDEX,
    "unique_consecutive": _HOST_INDEX,
}
"""Portable forms by kernel; a gradient goes the way of its operator."""


def advise(kernel: str, dtype: str, has: Set[str], black_listed: bool) -> str:
    """One line. `has`: the dtypes in which the chip does compute the kernel."""
    portable = PORTABLE.get(_operator(kernel))
    if portable:
        return portable
    if black_listed:
        return "the device's plugin keeps it off the chip (mix-core explain says why): use another operator"
    kin = FLOATS if dtype in FLOATS else WHOLE
    native = next((other for other in kin if other in has), None)
    if native:
        return f"cast to {native} before it and back after"
    if has:
        return (
            f"the chip has it only in {', '.join(sorted(has))}: use another operator, or compute on the host"
        )
    return "use operators that the chip has, or compute it on the host; once in a while it does no harm"


def _operator(kernel: str) -> str:
    for ending in ("_double_grad", "_grad_grad", "_grad", "_raw"):
        kernel = kernel.removesuffix(ending)
    return kernel
