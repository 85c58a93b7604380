"""Attention of one new token a row over the key/value cache.

Shapes: B batch, C cache slots, N query heads, K key/value heads (K divides N), H head dim.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import paddle
from paddle import Tensor, _C_ops

from mix_core.ops.attend_dense import MASKED
from mix_core.ops.dispatch import kernel_for

SPAN = 256
"""The reference reads the cache in multiples of this many slots, so that few shapes occur."""


def attention_decode(
    q_BNH: Tensor,
    k_BKCH: Tensor,
    v_BKCH: Tensor,
    *,
    first_B: np.ndarray,
    length: int,
    scale: float | None = None,
) -> Tensor:
    """Attend to the slots ``first <= slot < length`` of each row -> (B, N, H). See docs/operators.md."""
    kernel = kernel_for("attention_decode", q_BNH.dtype, head_dim=q_BNH.shape[-1], causal=True)
    return (kernel or _reference)(q_BNH, k_BKCH, v_BKCH, first_B=first_B, length=length, scale=scale)


def _reference(
    q_BNH: Tensor, k_BKCH: Tensor, v_BKCH: Tensor, *, first_B: np.ndarray, length: int, scale: float | None
) -> Tensor:
    B, N, H = q_BNH.shape
    K, slots = k_BKCH.shape[1:3]
    span = min(slots, -(-length // SPAN) * SPAN)
    if span < slots:
        k_BKCH, v_BKCH = k_BKCH[:, :, :span], v_BKCH[:, :, :span]
    q_BKGH = (q_BNH * (H**-0.5 if scale is None else scale)).reshape([B, K, N // K, H])
    scores_BKGC = _C_ops.matmul(q_BKGH, k_BKCH, False, True)
    scores_BKGC = _C_ops.add(scores_BKGC, _bias(tuple(first_B.tolist()), length, span))
    return _C_ops.matmul(_C_ops.softmax(scores_BKGC, -1), v_BKCH, False, False).reshape([B, N, H])


@lru_cache(maxsize=4)
def _bias(first_B: tuple[int, ...], length: int, span: int) -> Tensor:
    """0 where a slot is attended, else MASKED: (B, 1, 1, C). All layers of a step ask for the same."""
    slot_C = np.arange(span)
    keep_BC = (slot_C >= np.array(first_B)[:, None]) & (slot_C < length)
    return paddle.to_tensor(np.where(keep_BC, 0.0, MASKED).astype(np.float32)[:, None, None])
