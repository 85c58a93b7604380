"""What a Kunlun XPU runs instead of the references: calls of functions that Paddle and Kunlun publish.

Shapes: B batch, S queries, M keys, T tokens, N query heads, K key/value heads, H head dim, D model dim.
None of this has been run on a card. A simulated one runs swiglu and linear_cross_entropy for the half types;
for the rest, and in float32, it computes what the host's kernels compute, so its float32 losses stay those of
the CPU.

Left to the references: attention_packed (`flash_attn_varlen_func` refuses this chip, `flash_attn_unpadded`
has no bfloat16 on it); linear (classes of `paddle_xpu.layers.nn` replace layers and their accumulation of
gradients, not a product of two tensors); adamw and the rest, made of native operators.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from mix_core.plugin_api import Kernel, KernelRequest
from mix_device_xpu.head_loss import LossFunctions, linear_cross_entropy

HALF = ("float16", "bfloat16")
ALL = ("float32", *HALF)
EXTENSION = "paddle_xpu_nn"
MASKED = -3e4
"""Added to a score that must not count: float16 holds it, and its exponential is 0 beside any score."""


@dataclass(frozen=True)
class Functions:
    """The published functions that the kernels call; tests give recorders."""

    scaled_dot_product_attention: Callable[..., Any]
    fused_rotary_position_embedding: Callable[..., Any]
    swiglu: Callable[..., Any]
    xpu_rms_norm: Callable[..., Any] | None
    """None where Kunlun's extension is not installed."""
    loss: LossFunctions


def published() -> Functions:
    """The functions of the installed Paddle, and of Kunlun's extension where that is installed."""
    import paddle.incubate.nn.functional as fused
    import paddle.nn.functional as F
    from paddle import _C_ops

    extension = import_module(EXTENSION) if find_spec(EXTENSION) else None
    return Functions(
        scaled_dot_product_attention=F.scaled_dot_product_attention,
        fused_rotary_position_embedding=fused.fused_rotary_position_embedding,
        swiglu=getattr(F, "swiglu", None) or fused.swiglu,  # moved in Paddle 3.3
        xpu_rms_norm=None if extension is None else extension.xpu_rms_norm,
        loss=LossFunctions(_C_ops.cross_entropy_with_softmax, _C_ops.cross_entropy_with_softmax_grad),
    )


class KunlunKernels:
    """The kernels over one set of functions; the arguments are those of docs/operators.md."""

    def __init__(self, functions: Functions) -> None:
        self.functions = functions

    def select(self, op: str, request: KernelRequest) -> Kernel | None:
        """The kernel for this request, None where the reference has to run."""
        if op not in DTYPES or request.dtype not in DTYPES[op]:
            return None
        if op == "attention" and request.windowed:
            return None  # the function knows no window
        if op == "rms_norm" and self.functions.xpu_rms_norm is None:
            return None
        simulated = op in SIMULATED and request.dtype in HALF
        return Kernel(getattr(self, op), NAMES[op], needs_silicon=not simulated, reason=REASONS[op])

    def attention(
        self,
        q_BSNH: Any,
        k_BMKH: Any,
        v_BMKH: Any,
        *,
        causal: bool,
        window: int | None,
        scale: float | None,
        mask_BNSS: Any = None,
    ) -> Any:
        """Flash attention. On this chip Paddle's function drops `scale`, and a mask beside `is_causal`.

        So another scale goes into the queries. A mask becomes a bias with the causal part in it, written out
        for every head, because the kernel takes its bare address. Unequal numbers of queries and keys are
        aligned by such a bias too.
        """
        S, N, H = q_BSNH.shape[1:]
        M = k_BMKH.shape[1]
        if scale is not None and scale != H**-0.5:
            q_BSNH = q_BSNH * (scale * H**0.5)
        bias_BNSM = None
        if mask_BNSS is not None or (causal and S != M):
            bias_BNSM = _bias(q_BSNH, N, M, mask_BNSS, causal)
        return self.functions.scaled_dot_product_attention(
            q_BSNH,
            k_BMKH,
            v_BMKH,
            attn_mask=bias_BNSM,
            dropout_p=0.0,
            is_causal=causal and bias_BNSM is None,
        )

    def rms_norm(self, x: Any, weight_D: Any, eps: float) -> Any:
        assert self.functions.xpu_rms_norm is not None, (
            "select() offers this kernel only where it is installed"
        )
        return self.functions.xpu_rms_norm(x, weight_D, eps)[0]

    def rotary(self, q: Any, k: Any, cos: Any, sin: Any) -> tuple[Any, Any]:
        """All tokens as one sequence, because the tables hold a row for each token of each sequence.

        The function wants the tables in the dtype of q. `use_neox_rotary_style=False` pairs i with i + H/2.
        """
        H = q.shape[-1]
        q_1TNH, k_1TKH = (x.reshape([1, -1, *x.shape[-2:]]) for x in (q, k))
        sin_1T1H, cos_1T1H = (table.reshape([1, -1, 1, H]).astype(q.dtype) for table in (sin, cos))
        turned_q, turned_k, _ = self.functions.fused_rotary_position_embedding(
            q_1TNH, k_1TKH, None, sin=sin_1T1H, cos=cos_1T1H, use_neox_rotary_style=False
        )
        return turned_q.reshape(q.shape), turned_k.reshape(k.shape)

    def swiglu(self, gate: Any, up: Any) -> Any:
        return self.functions.swiglu(gate, up)

    def linear_cross_entropy(
        self, hidden_TD: Any, weight_VD: Any, labels_T: np.ndarray, *, ignore_index: int = -100
    ) -> tuple[Any, int]:
        run = partial(linear_cross_entropy, self.functions.loss)
        return run(hidden_TD, weight_VD, labels_T, ignore_index=ignore_index)


def _bias(q_BSNH: Any, heads: int, keys: int, mask: Any, causal: bool) -> Any:
    """What is added to the scores (B, N, S, M), in the dtype of q: 0 where a query attends, else MASKED."""
    import paddle

    B, S = q_BSNH.shape[:2]
    keep = mask
    if causal:
        earlier_SM = paddle.tril(paddle.ones([S, keys], dtype="int32"), diagonal=keys - S).astype("bool")
        keep = earlier_SM.reshape([1, 1, S, keys]) if mask is None else paddle.logical_and(mask, earlier_SM)
    bias = paddle.where(keep, paddle.zeros([1]), paddle.full([1], MASKED))
    return bias.astype(q_BSNH.dtype).expand([B, heads, S, keys]).contiguous()


DTYPES = {
    "attention": HALF,
    "linear_cross_entropy": HALF,  # in float32 the reference has all its operators on the chip
    "rms_norm": ALL,
    "rotary": ALL,
    "swiglu": ALL,
}
SIMULATED = frozenset({"linear_cross_entropy", "swiglu"})
"""Made of operators that have kernels on a simulated card too."""
NAMES = {
    "attention": "paddle scaled_dot_product_attention",
    "linear_cross_entropy": "paddle cross_entropy_with_softmax by blocks",
    "rms_norm": f"{EXTENSION} xpu_rms_norm",
    "rotary": "paddle fused_rotary_position_embedding",
    "swiglu": "paddle swiglu",
}
_NOT_RUN = "not run on hardware"
REASONS = {
    "attention": f"the chip's flash attention; in float32 it would multiply in TF32; {_NOT_RUN}",
    "linear_cross_entropy": f"the reference's gather has no bfloat16 on this chip; {_NOT_RUN}",
    "rms_norm": f"one pass of Kunlun's extension instead of five operators; {_NOT_RUN}",
    "rotary": f"one operator for queries and keys; {_NOT_RUN}",
    "swiglu": f"one operator instead of three; {_NOT_RUN}",
}


@lru_cache(maxsize=1)
def _installed() -> KunlunKernels:
    return KunlunKernels(published())


def select(op: str, request: KernelRequest) -> Kernel | None:
    """What `mix_kernel` answers, over the functions that are installed."""
    return _installed().select(op, request) if op in DTYPES else None
