"""Attention over packed segments.

Shapes: T packed tokens, N query heads, K key/value heads, H head dim.
"""

from __future__ import annotations

import numpy as np
import paddle
from paddle import Tensor

from mix_core.ops import attend_dense as dense


def attention_packed(
    q_TNH: Tensor,
    k_TKH: Tensor,
    v_TKH: Tensor,
    cu_seqlens: np.ndarray,
    *,
    causal: bool,
    window: int | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Attention within each segment of ``cu_seqlens`` -> (T, N, H)."""
    arguments = dict(causal=causal, window=window, scale=scale, mask_BNSS=None, dropout=dropout)
    lengths = np.diff(cu_seqlens)
    if (lengths == lengths[0]).all():
        fold = lambda x: x.reshape([len(lengths), int(lengths[0]), *x.shape[1:]])
        return dense.reference(fold(q_TNH), fold(k_TKH), fold(v_TKH), **arguments).reshape(q_TNH.shape)
    outs = []
    for a, b in zip(cu_seqlens[:-1].tolist(), cu_seqlens[1:].tolist()):
        outs.append(dense.reference(q_TNH[None, a:b], k_TKH[None, a:b], v_TKH[None, a:b], **arguments)[0])
    return paddle.concat(outs, axis=0)
