"""The chip's kernels for replaceable operators (docs/operators.md), and which requests they serve.

Shapes: `...` any axes, S tokens of all rows, N query heads, K key/value heads, H head dim, D model dim.

Written against the custom operators of paddle-custom-npu (backends/npu/custom_op in PaddleCustomDevice,
October 2024) and not run on hardware. Left to core's reference, with the reason:
- adamw: the reference already makes one `_C_ops.adamw_` call for each parameter; the chip has that kernel.
  The vendor's acceleration (paddlenlp's npu_accelerate_plugin) merges all gradients into one tensor for that
  call; it replaces `optimizer.step` and moves the parameters' memory, which no kernel may do here.
- attention_decode: the cache is stored head by head, flash_attention_npu wants token by token; turning the
  whole cache for each token costs more than it saves.
- float32 attention, swiglu and cross entropy: flash_attention_npu takes 16-bit types only, and the references
  are exact.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mix_core.plugin_api import Kernel, KernelRequest
from mix_device_npu import attention, head_loss

LIBRARY = "libpaddle-custom-npu.so"
HALF = ("bfloat16", "float16")
FLOATS = ("float32", *HALF)
ATTENTION_HEAD_DIMS = range(16, 257, 16)
"""The matrix unit works on blocks of 16. CANN documents head dims up to 768; no model here needs over 256."""
ROTARY_HEAD_DIMS = range(64, 1025, 64)
"""fused_rope refuses a head dim that is no multiple of 64."""
UNTRIED = "not run on hardware"


def run_operator(name: str, *arguments: Any) -> Any:
    """Run one of the library's custom operators; returns all its results."""
    from paddle.base import core

    return core.eager._run_custom_op(name, *arguments)


def count_arguments(name: str, library: Path | None = None) -> int | None:
    """How many arguments the installed library's operator takes; 0: it has none of that name.

    None where there is no library to ask (a simulated device). The library itself is asked, because its
    version does not tell: wheels built from development sources call themselves 0.0.0 (its README.md).
    """
    if library is None:
        folder = os.environ.get("CUSTOM_DEVICE_ROOT")  # set by `import paddle` where the user has not
        if not folder:
            return None
        library = Path(folder) / LIBRARY
    if not library.is_file():
        return None
    from paddle.utils.cpp_extension import extension_utils

    extension_utils.load_op_meta_info_and_register_op(str(library))
    try:
        inputs, attributes, _ = extension_utils.parse_op_info(name)
    except ValueError:
        return 0
    return len(inputs) + len(attributes)


class AscendKernels:
    """Chooses kernels. `call` runs a custom operator, `count` tells how many arguments it takes."""

    def __init__(
        self,
        call: Callable[..., Any] = run_operator,
        count: Callable[[str], int | None] = count_arguments,
    ) -> None:
        self.call, self.count = call, count
        self._choices: dict[str, Callable[[KernelRequest], Kernel | None]] = {
            "attention": self._attention,
            "attention_packed": self._attention_packed,
            "linear_cross_entropy": _linear_cross_entropy,
            "rms_norm": self._rms_norm,
            "rotary": self._rotary,
            "swiglu": _swiglu,
        }

    def select(self, op: str, request: KernelRequest) -> Kernel | None:
        """The kernel for this use of an operator; None leaves it to core's reference."""
        choose = self._choices.get(op)
        return choose(request) if choose else None

    def _attention(self, request: KernelRequest) -> Kernel | None:
        flash = self._flash(request)
        if flash is None:
            return None
        return _on_chip(flash.dense, attention.OPERATOR, f"one pass, {flash.form} arguments")

    def _attention_packed(self, request: KernelRequest) -> Kernel | None:
        flash = self._flash(request)
        if flash is None:
            return None
        by_ends = flash.takes_ends(request.causal, request.windowed)
        how = "by the segments' ends" if by_ends else "segment by segment"
        return _on_chip(flash.packed, attention.OPERATOR, f"one pass, {flash.form} arguments, {how}")

    def _flash(self, request: KernelRequest) -> attention.FlashAttention | None:
        if request.dtype not in HALF or request.head_dim not in ATTENTION_HEAD_DIMS:
            return None
        form = self.count(attention.OPERATOR)
        if form is None:
            form = attention.VARLEN_FORM  # no library: a simulated device, which will not call it
        if form not in attention.FORMS:
            return None
        return attention.FlashAttention(self.call, form, request.training)

    def _rms_norm(self, request: KernelRequest) -> Kernel | None:
        if request.dtype not in FLOATS or self.count("rms_norm_npu") not in (None, 3):
            return None
        return _on_chip(self.rms_norm, "rms_norm_npu", "one pass with float32 statistics")

    def _rotary(self, request: KernelRequest) -> Kernel | None:
        known = request.dtype in FLOATS and request.head_dim in ROTARY_HEAD_DIMS
        if not known or self.count("fused_rope") not in (None, 3):
            return None
        return _on_chip(self.rotary, "fused_rope", "one pass instead of six")

    def rms_norm(self, x: Any, weight_D: Any, eps: float) -> Any:
        """docs/operators.md, rms_norm. The vendor's gradient of the weight is float32 whatever its dtype."""
        return self.call("rms_norm_npu", x, weight_D, float(eps))[0]

    def rotary(self, q: Any, k: Any, cos: Any, sin: Any) -> tuple[Any, Any]:
        """docs/operators.md, rotary.

        The operator takes (1, S, N, H) and tables (1, S, 1, H) of the same dtype: all tokens are one row.
        """
        tables = [table.reshape([1, -1, 1, table.shape[-1]]).astype(q.dtype) for table in (cos, sin)]
        q_out, k_out = (
            self.call("fused_rope", x.reshape([1, -1, *x.shape[-2:]]), *tables)[0].reshape(x.shape)
            for x in (q, k)
        )
        return q_out, k_out


def _on_chip(fn: Callable[..., Any], name: str, why: str) -> Kernel:
    return Kernel(fn, name, needs_silicon=True, reason=f"{why}; {UNTRIED}")


def _linear_cross_entropy(request: KernelRequest) -> Kernel | None:
    if request.dtype not in HALF:
        return None
    why = "operators that the chip has in float32; the reference's index_add would run on the host"
    return Kernel(head_loss.linear_cross_entropy, "npu linear_cross_entropy", reason=f"{why}; {UNTRIED}")


def _swiglu(request: KernelRequest) -> Kernel | None:
    if request.dtype not in HALF:
        return None
    return Kernel(swiglu, "npu swiglu", reason=f"Paddle's swiglu, which the chip has in one pass; {UNTRIED}")


def swiglu(gate: Any, up: Any) -> Any:
    from paddle import _C_ops

    return _C_ops.swiglu(gate, up)
