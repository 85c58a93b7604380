"""Dense attention.

Shapes: B batch, S queries, M keys, N query heads, K key/value heads (K divides N), H head dim.
"""

from __future__ import annotations

import numpy as np
import paddle
from paddle import Tensor

from mix_core.ops.arguments import check_attention
from mix_core.ops.attend_plan import MASKED
from mix_core.ops.attend_reference import attend
from mix_core.ops.dispatch import kernel_for
from mix_core.ops.dtypes import in_float32, products_inside


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
    dropout_keys: np.ndarray | None = None,
    dropout_head: int = 0,
) -> Tensor:
    """Softmax attention -> (B, S, N, H); docs/operators.md has the contract."""
    check_attention(q_BSNH, k_BSKH, v_BSKH, window, mask_BNSS)
    if not dropout:
        kernel = kernel_for(
            "attention",
            q_BSNH.dtype,
            head_dim=q_BSNH.shape[-1],
            causal=causal,
            windowed=window is not None,
            training=not q_BSNH.stop_gradient,
            products=products_inside(),
        )
        if kernel is not None:
            return kernel(
                q_BSNH, k_BSKH, v_BSKH, causal=causal, window=window, scale=scale, mask_BNSS=mask_BNSS
            )
    if mask_BNSS is not None:
        if dropout:
            raise ValueError("attention takes a mask or dropout, not both")
        return _masked(q_BSNH, k_BSKH, v_BSKH, mask_BNSS, causal, window, scale)
    B, S, N, H = q_BSNH.shape
    M, K = k_BSKH.shape[1:3]
    out_TNH = attend(
        q_BSNH.reshape([B * S, N, H]),
        k_BSKH.reshape([B * M, K, H]),
        v_BSKH.reshape([B * M, K, H]),
        np.arange(B + 1) * S,
        np.arange(B + 1) * M,
        causal=causal,
        window=window,
        scale=scale,
        dropout=dropout,
        dropout_keys=dropout_keys,
        dropout_head=dropout_head,
    )
    return out_TNH.reshape([B, S, N, H])


@in_float32
def _masked(
    q_BSNH: Tensor,
    k_BMKH: Tensor,
    v_BMKH: Tensor,
    mask_BNSM: Tensor,
    causal: bool,
    window: int | None,
    scale: float | None,
) -> Tensor:
    """The textbook form, for masks that only the caller knows."""
    S, N, H = q_BSNH.shape[1:]
    M, K = k_BMKH.shape[1:3]
    q_BNSH = q_BSNH.transpose([0, 2, 1, 3]) * (H**-0.5 if scale is None else scale)
    k_BNMH, v_BNMH = (
        paddle.repeat_interleave(x, N // K, axis=2).transpose([0, 2, 1, 3]) for x in (k_BMKH, v_BMKH)
    )
    ahead_SM = np.arange(M) - (np.arange(S)[:, None] + M - S)
    keep_SM = ahead_SM <= 0 if causal else np.ones((S, M), bool)
    if window is not None:
        keep_SM &= np.abs(ahead_SM) < window
    keep_BNSM = paddle.logical_and(mask_BNSM, paddle.to_tensor(keep_SM))
    scores = paddle.matmul(q_BNSH, k_BNMH, transpose_y=True)
    weights = paddle.nn.functional.softmax(scores + paddle.where(keep_BNSM, 0.0, MASKED), axis=-1)
    return paddle.matmul(weights, v_BNMH).transpose([0, 2, 1, 3])
