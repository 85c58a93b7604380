"""Attention of one new token a row over the key/value cache.

Shapes: B batch, C cache slots, N query heads, K key/value heads (K divides N), H head dim.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import paddle
from paddle import Tensor, _C_ops

from mix_core.ops.arguments import check_decode
from mix_core.ops.attend_plan import MASKED
from mix_core.ops.dispatch import kernel_for
from mix_core.ops.dtypes import in_float32
from mix_core.ops.shapes import reshape

SPAN = 256
"""Where the cache is less than half full, the reference reads a multiple of this many slots of it."""


def attention_decode(
    q_BNH: Tensor,
    k_BKCH: Tensor,
    v_BKCH: Tensor,
    *,
    lengths_B: np.ndarray,
    scale: float | None = None,
) -> Tensor:
    """Attend to the first `lengths` slots of each row -> (B, N, H); docs/operators.md has the contract."""
    check_decode(q_BNH, k_BKCH, v_BKCH, lengths_B)
    kernel = kernel_for("attention_decode", q_BNH.dtype, head_dim=q_BNH.shape[-1], causal=True)
    return (kernel or _reference)(q_BNH, k_BKCH, v_BKCH, lengths_B=lengths_B, scale=scale)


@in_float32
def _reference(
    q_BNH: Tensor, k_BKCH: Tensor, v_BKCH: Tensor, *, lengths_B: np.ndarray, scale: float | None
) -> Tensor:
    B, N, H = q_BNH.shape
    K, slots = k_BKCH.shape[1:3]
    span = min(slots, -(-int(lengths_B.max()) // SPAN) * SPAN)
    if 2 * span < slots:
        rows = _first_rows(B * K, slots, span)
        k_BKCH, v_BKCH = (
            reshape(_C_ops.gather(reshape(x, [-1, H]), rows, 0), [B, K, span, H]) for x in (k_BKCH, v_BKCH)
        )
        slots = span
    q_BKGH = reshape(_C_ops.scale(q_BNH, H**-0.5 if scale is None else scale, 0.0, True), [B, K, N // K, H])
    scores_BKGC = _C_ops.add(
        _C_ops.matmul(q_BKGH, k_BKCH, False, True), _bias(tuple(lengths_B.tolist()), slots)
    )
    return reshape(_C_ops.matmul(_C_ops.softmax(scores_BKGC, -1), v_BKCH, False, False), [B, N, H])


@lru_cache(maxsize=4)
def _bias(lengths_B: tuple[int, ...], slots: int) -> Tensor:
    """0 where a slot is attended, else MASKED: (B, 1, 1, C). All layers of a step ask for the same."""
    keep_BC = np.arange(slots) < np.array(lengths_B)[:, None]
    return paddle.to_tensor(np.where(keep_BC, np.float32(0.0), np.float32(MASKED))[:, None, None])


@lru_cache(maxsize=4)
def _first_rows(heads: int, slots: int, span: int) -> Tensor:
    """Rows of the first `span` slots of each head: a strided slice would be copied many times slower."""
    return paddle.to_tensor((np.arange(heads)[:, None] * slots + np.arange(span)).reshape(-1))
