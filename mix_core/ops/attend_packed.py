"""Attention over packed segments: tokens of several sequences, pictures or windows in one row.

Shapes: T packed tokens, N query heads, K key/value heads (K divides N), H head dim.
"""

from __future__ import annotations

import numpy as np
from paddle import Tensor

from mix_core.ops.arguments import check_packed
from mix_core.ops.attend_reference import attend
from mix_core.ops.dispatch import kernel_for
from mix_core.ops.dtypes import products_inside


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
    dropout_keys: np.ndarray | None = None,
    dropout_head: int = 0,
) -> Tensor:
    """Attention within each segment of `cu_seqlens` -> (T, N, H); docs/operators.md has the contract."""
    check_packed(q_TNH, k_TKH, v_TKH, cu_seqlens, window)
    if not dropout:
        kernel = kernel_for(
            "attention_packed",
            q_TNH.dtype,
            head_dim=q_TNH.shape[-1],
            causal=causal,
            windowed=window is not None,
            packed=True,
            training=not q_TNH.stop_gradient,
            products=products_inside(),
        )
        if kernel is not None:
            return kernel(q_TNH, k_TKH, v_TKH, cu_seqlens, causal=causal, window=window, scale=scale)
    return attend(
        q_TNH,
        k_TKH,
        v_TKH,
        cu_seqlens,
        cu_seqlens,
        causal=causal,
        window=window,
        scale=scale,
        dropout=dropout,
        dropout_keys=dropout_keys,
        dropout_head=dropout_head,
    )
