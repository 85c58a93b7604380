"""What an NVIDIA GPU runs instead of the references: calls of Paddle's own fused functions.

Shapes: B batch, S queries, M keys, T tokens, N query heads, K key/value heads, H head dim, D model dim.
None of this has been run on a card. A simulated one runs swiglu and linear_cross_entropy for the half types;
for the rest, and in float32, it computes what the host's kernels compute, so its float32 losses stay those of
the CPU.

Attention is flash attention 2: `flash_attn_varlen_func` is flash attention 3, which takes Hopper cards alone
and refuses to be deterministic. adamw is `fused_adam_`, which updates many tensors in one launch: `adamw_`
launches once for each parameter, and `merged_adam_` has no decoupled weight decay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np

from mix_core.plugin_api import Kernel, KernelRequest, VersionRange
from mix_device_gpu.head_loss import LossFunctions, linear_cross_entropy

HALF = ("float16", "bfloat16")
ALL = ("float32", *HALF)
FLASH_CAPABILITY = (8, 0)
"""Compute capability from which flash attention runs (paddle.nn.functional.sdpa)."""
FLASH_HEAD_DIM = 256
MASKED = -3e4
"""Added to a score that must not count: float16 holds it, and its exponential is 0 beside any score."""
ADAM_CHUNK = 1 << 16
"""Numbers that one block of the multi-tensor kernel updates, as in Paddle's own tests of it."""
FLOAT_RATE = VersionRange(">=3.0,<3.4", "fused_adam takes a float32 learning rate in these, later a float64")


@dataclass(frozen=True)
class Functions:
    """Paddle's functions that the kernels call, and what they run on; tests give recorders."""

    scaled_dot_product_attention: Callable[..., Any]
    flash_attn_unpadded: Callable[..., Any]
    fused_rms_norm: Callable[..., Any]
    fused_rotary_position_embedding: Callable[..., Any]
    swiglu: Callable[..., Any]
    fused_adam: Callable[..., Any]
    loss: LossFunctions
    capability: tuple[int, int] | None
    """Compute capability of the card; None where there is none to ask (a simulated device)."""
    paddle_version: str


def published() -> Functions:
    """The functions of the installed Paddle."""
    import paddle
    import paddle.incubate.nn.functional as fused
    import paddle.nn.functional as F
    from paddle import _C_ops
    from paddle.nn.functional.flash_attention import flash_attn_unpadded

    compiled = paddle.is_compiled_with_cuda()
    return Functions(
        scaled_dot_product_attention=F.scaled_dot_product_attention,
        flash_attn_unpadded=flash_attn_unpadded,
        fused_rms_norm=fused.fused_rms_norm,
        fused_rotary_position_embedding=fused.fused_rotary_position_embedding,
        swiglu=getattr(F, "swiglu", None) or fused.swiglu,  # moved in Paddle 3.3
        fused_adam=_C_ops.fused_adam_,
        loss=LossFunctions(_C_ops.cross_entropy_with_softmax, _C_ops.cross_entropy_with_softmax_grad),
        capability=paddle.device.cuda.get_device_capability() if compiled else None,
        paddle_version=paddle.version.full_version,
    )


class GpuKernels:
    """The kernels over one set of functions; the arguments are those of docs/operators.md."""

    def __init__(self, functions: Functions) -> None:
        self.functions = functions

    def select(self, op: str, request: KernelRequest) -> Kernel | None:
        """The kernel for this request, None where the reference has to run."""
        if op not in DTYPES or request.dtype not in DTYPES[op] or not self._fits(op, request):
            return None
        simulated = op in SIMULATED and request.dtype in HALF
        return Kernel(getattr(self, op), NAMES[op], needs_silicon=not simulated, reason=REASONS[op])

    def _fits(self, op: str, request: KernelRequest) -> bool:
        H = request.head_dim or 0
        if op in ("attention", "attention_packed"):
            card = self.functions.capability or FLASH_CAPABILITY
            return (
                not request.windowed and 0 < H <= FLASH_HEAD_DIM and H % 8 == 0 and card >= FLASH_CAPABILITY
            )
        if op == "rotary":
            return H % 16 == 0  # eight numbers are loaded at once, from one half of the head
        return op != "adamw" or FLOAT_RATE.contains(self.functions.paddle_version)

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
        """Flash attention. Given a scale, Paddle takes a slower one, so another scale goes into the queries.

        `is_causal` drops a mask and aligns unequal numbers of queries and keys at the start: both become a
        bias.
        """
        S, _, H = q_BSNH.shape[1:]
        M = k_BMKH.shape[1]
        if scale is not None and scale != H**-0.5:
            q_BSNH = q_BSNH * (scale * H**0.5)
        bias_BNSM = None
        if mask_BNSS is not None or (causal and S != M):
            bias_BNSM = _bias(q_BSNH, M, mask_BNSS, causal)
        return self.functions.scaled_dot_product_attention(
            q_BSNH,
            k_BMKH,
            v_BMKH,
            attn_mask=bias_BNSM,
            dropout_p=0.0,
            is_causal=causal and bias_BNSM is None,
        )

    def attention_packed(
        self,
        q_TNH: Any,
        k_TKH: Any,
        v_TKH: Any,
        cu_seqlens: np.ndarray,
        *,
        causal: bool,
        window: int | None,
        scale: float | None,
    ) -> Any:
        starts = _starts(tuple(cu_seqlens.tolist()))
        longest = int(np.diff(cu_seqlens).max())
        scale = q_TNH.shape[-1] ** -0.5 if scale is None else scale
        return self.functions.flash_attn_unpadded(
            q_TNH, k_TKH, v_TKH, starts, starts, longest, longest, float(scale), dropout=0.0, causal=causal
        )[0]

    def rms_norm(self, x: Any, weight_D: Any, eps: float) -> Any:
        return self.functions.fused_rms_norm(x, weight_D, None, float(eps), len(x.shape) - 1)[0]

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

    def adamw(
        self,
        parameters: Sequence[Any],
        gradients: Sequence[Any],
        means: Sequence[Any],
        squares: Sequence[Any],
        *,
        step: int,
        learning_rate: float,
        beta1: float,
        beta2: float,
        epsilon: float,
        weight_decay: float,
        grad_scale: float,
    ) -> None:
        """All parameters in one call. The powers of beta stay on the host, where the launch reads them."""
        import paddle

        scaled = []
        for parameter, gradient in zip(parameters, gradients):
            gradient = gradient if gradient.dtype == parameter.dtype else gradient.astype(parameter.dtype)
            scaled.append(gradient if grad_scale == 1.0 else gradient.scale_(grad_scale))
        power1, power2 = (
            paddle.to_tensor([beta**step], dtype="float32", place=paddle.CPUPlace())
            for beta in (beta1, beta2)
        )
        count = len(scaled)
        self.functions.fused_adam(
            list(parameters),
            scaled,
            paddle.full([1], learning_rate, "float32"),
            list(means),
            list(squares),
            None,  # running maximum of the squares, for amsgrad
            [power1] * count,
            [power2] * count,
            None,  # master weights
            None,  # flag to skip the update
            beta1,
            beta2,
            epsilon,
            ADAM_CHUNK,
            weight_decay,
            True,  # decoupled weight decay
            False,  # multi-precision
            True,  # the powers of beta are ours: leave them as they are
            False,  # amsgrad
        )


def _bias(q_BSNH: Any, keys: int, mask: Any, causal: bool) -> Any:
    """What is added to the scores (B, 1 or N, S, M), in q's dtype: 0 where a query attends, else MASKED."""
    import paddle

    B, S = q_BSNH.shape[:2]
    keep = mask
    if causal:
        earlier_SM = paddle.tril(paddle.ones([S, keys], dtype="int32"), diagonal=keys - S).astype("bool")
        keep = earlier_SM.reshape([1, 1, S, keys]) if mask is None else paddle.logical_and(mask, earlier_SM)
    bias = paddle.where(keep, paddle.zeros([1]), paddle.full([1], MASKED))
    return bias.astype(q_BSNH.dtype).expand([B, keep.shape[1], S, keys]).contiguous()


@lru_cache(maxsize=64)
def _starts(starts: tuple[int, ...]) -> Any:
    """Segment borders on the device; the layers of a step share them."""
    import paddle

    return paddle.to_tensor(np.asarray(starts, dtype=np.int32))


DTYPES = {
    "adamw": ALL,
    "attention": HALF,
    "attention_packed": HALF,
    "linear_cross_entropy": ALL,
    "rms_norm": ALL,
    "rotary": ALL,
    "swiglu": ALL,
}
SIMULATED = frozenset({"linear_cross_entropy", "swiglu"})
"""Made of operators that have kernels on a simulated card too."""
NAMES = {
    "adamw": "paddle fused_adam_",
    "attention": "paddle scaled_dot_product_attention",
    "attention_packed": "paddle flash_attn_unpadded",
    "linear_cross_entropy": "paddle cross_entropy_with_softmax by blocks",
    "rms_norm": "paddle fused_rms_norm",
    "rotary": "paddle fused_rotary_position_embedding",
    "swiglu": "paddle swiglu",
}
_NOT_RUN = "not run on hardware"
REASONS = {
    "adamw": f"many tensors in one launch; {_NOT_RUN}",
    "attention": f"flash attention, half types only; {_NOT_RUN}",
    "attention_packed": f"flash attention over segments, half types only; {_NOT_RUN}",
    "linear_cross_entropy": f"fused softmax and loss, nothing read back to the host; {_NOT_RUN}",
    "rms_norm": f"one pass instead of five operators; {_NOT_RUN}",
    "rotary": f"one operator for queries and keys; {_NOT_RUN}",
    "swiglu": f"one operator instead of three; {_NOT_RUN}",
}


@lru_cache(maxsize=1)
def _installed() -> GpuKernels:
    return GpuKernels(published())


def select(op: str, request: KernelRequest) -> Kernel | None:
    """What `mix_kernel` answers, over the functions that are installed."""
    return _installed().select(op, request) if op in DTYPES else None
