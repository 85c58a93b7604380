"""Dense attention.

Shapes: B batch, S sequence, N query heads, K key/value heads (K divides N), H head dim.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from mix_core.ops.dispatch import kernel_for

MASKED = -1e30
"""Added to a score that must not be attended: exp gives 0, and a row with nothing left stays finite."""


def attention(
    q_BSNH: Tensor,
    k_BSKH: Tensor,
    v_BSKH: Tensor,
    *,
    causal: bool,
    window: int | None = None,
    scale: float | None = None,
    mask_BNSS: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Softmax attention -> (B, S, N, H). See docs/operators.md."""
    kernel = kernel_for(
        "attention",
        q_BSNH.dtype,
        head_dim=q_BSNH.shape[-1],
        causal=causal,
        windowed=window is not None,
        training=not q_BSNH.stop_gradient,
    )
    arguments = dict(causal=causal, window=window, scale=scale, mask_BNSS=mask_BNSS, dropout=dropout)
    return (kernel or reference)(q_BSNH, k_BSKH, v_BSKH, **arguments)


def reference(q_BSNH, k_BSKH, v_BSKH, *, causal, window, scale, mask_BNSS, dropout):
    B, S, N, H = q_BSNH.shape
    K = k_BSKH.shape[2]
    keys = k_BSKH.shape[1]
    scale = H**-0.5 if scale is None else scale
    q = (q_BSNH * scale).reshape([B, S, K, N // K, H]).transpose([0, 2, 3, 1, 4])
    k = k_BSKH.transpose([0, 2, 1, 3]).unsqueeze(2)
    v = v_BSKH.transpose([0, 2, 1, 3]).unsqueeze(2)
    scores = paddle.matmul(q, k, transpose_y=True)
    if causal or window is not None:
        ahead = paddle.arange(keys).unsqueeze(0) - (paddle.arange(S).unsqueeze(1) + keys - S)
        keep = ahead <= 0 if causal else paddle.ones_like(ahead, dtype="bool")
        if window is not None:
            keep = keep & (ahead > -window) & (ahead < window)
        scores = paddle.where(keep, scores, paddle.full_like(scores, MASKED))
    if mask_BNSS is not None:
        scores = paddle.where(mask_BNSS.unsqueeze(1), scores, paddle.full_like(scores, MASKED))
    weights = F.softmax(scores)
    if dropout:
        weights = F.dropout(weights, dropout)
    out = paddle.matmul(weights, v)
    return out.transpose([0, 3, 1, 2, 4]).reshape([B, S, N, H])
