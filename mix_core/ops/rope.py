"""Rotary position embedding: tables for one axis, for two (vision) and for three (mrope), and their use.

Shapes: B batch, S sequence, T packed tokens, N query heads, K key/value heads, H head dim.
A table holds the angle of each pair (i, i + H/2) once in each half, so it has the width H.
Su et al., "RoFormer", 2021; the three axes: Wang et al., "Qwen2-VL", 2024.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, _C_ops
from paddle.autograd import PyLayer

from mix_core.ops.arguments import check_rotary
from mix_core.ops.dispatch import kernel_for
from mix_core.ops.dtypes import in_float32
from mix_core.ops.shapes import reshape


def inverse_frequencies(width: int, theta: float) -> np.ndarray:
    """``theta ** (-2 i / width)`` for i < width / 2, in float32 as the published models compute it."""
    exponents = np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
    return (np.float32(1.0) / np.power(np.float32(theta), exponents)).astype(np.float32)


def _tables(positions: np.ndarray, frequencies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin of positions (...) times frequencies (F,), (..., F); of many positions each once."""
    if positions.size < 64:
        angles = positions.astype(np.float32)[..., None] * frequencies
        return np.cos(angles), np.sin(angles)
    distinct, place = np.unique(positions, return_inverse=True)
    angles = distinct.astype(np.float32)[:, None] * frequencies
    place = place.reshape(positions.shape)
    return np.cos(angles)[place], np.sin(angles)[place]


def _doubled(table: np.ndarray) -> np.ndarray:
    return np.concatenate([table, table], axis=-1)


def rotary_tables_1d(positions: np.ndarray, head_dim: int, theta: float) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin (..., H) for positions (...), float32, on the host."""
    cos, sin = _tables(positions, inverse_frequencies(head_dim, theta))
    return _doubled(cos), _doubled(sin)


def rotary_tables_2d(positions_T2: np.ndarray, head_dim: int, theta: float) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin (T, H): the first quarter of the head turns with the row, the second with the column."""
    cos, sin = _tables(positions_T2, inverse_frequencies(head_dim // 2, theta))
    flat = (len(positions_T2), head_dim // 2)
    return _doubled(cos.reshape(flat)), _doubled(sin.reshape(flat))


def rotary_tables_mrope(
    positions_3BS: np.ndarray, head_dim: int, theta: float, sections: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin (B, S, H): frequencies of section i (time, height, width) turn with axis i."""
    if sum(sections) != head_dim // 2:
        raise ValueError(f"mrope sections {list(sections)} must add up to half the head dim, {head_dim // 2}")
    frequencies = np.split(inverse_frequencies(head_dim, theta), np.cumsum(sections)[:-1])
    parts = [_tables(positions, part) for positions, part in zip(positions_3BS, frequencies)]
    cos, sin = (np.concatenate(tables, axis=-1) for tables in zip(*parts))
    return _doubled(cos), _doubled(sin)


def rotary(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Turn q (..., N, H) and k (..., K, H) by tables (..., 1, H) that hold one row a token."""
    check_rotary(q, k, cos, sin)
    kernel = kernel_for("rotary", q.dtype, head_dim=q.shape[-1], training=not q.stop_gradient)
    if kernel is not None:
        return kernel(q, k, cos, sin)
    return _turn(q, cos, sin), _turn(k, cos, sin)


@in_float32
def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return _Turn.apply(x, cos, sin)


class _Turn(PyLayer):
    """Rows of tables and halves of heads are fetched by index: Paddle's broadcasts and strided copies run
    many times slower on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        heads, H = x.shape[-2:]
        of_token, swapped = _rows(prod(x.shape[:-2]), heads)
        cos_RH = _C_ops.gather(reshape(cos, [-1, H]), of_token, 0)
        sin_RH = _C_ops.gather(_signed(reshape(sin, [-1, H])), of_token, 0)
        ctx.save_for_backward(cos_RH, sin_RH, swapped)
        turned_RH = reshape(_C_ops.gather(reshape(x, [-1, H // 2]), swapped, 0), [-1, H]).multiply_(sin_RH)
        return reshape(_C_ops.multiply(reshape(x, [-1, H]), cos_RH).add_(turned_RH), x.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        cos_RH, sin_RH, swapped = ctx.saved_tensor()
        H = cos_RH.shape[1]
        grad_RH = reshape(grad, [-1, H])
        back = reshape(_C_ops.multiply(grad_RH, sin_RH), [-1, H // 2])
        turned_RH = reshape(_C_ops.gather(back, swapped, 0), [-1, H])
        return reshape(_C_ops.multiply(grad_RH, cos_RH).add_(turned_RH), grad.shape)


def _signed(sin_TH: Tensor) -> Tensor:
    """The first half turns by minus the sine of the second."""
    return _C_ops.multiply(sin_TH, _signs(sin_TH.shape[1]))


@lru_cache(maxsize=8)
def _signs(width: int) -> Tensor:
    return paddle.to_tensor(np.repeat(np.array([-1.0, 1.0], np.float32), width // 2))


@lru_cache(maxsize=32)
def _rows(tokens: int, heads: int) -> tuple[Tensor, Tensor]:
    """Token of each row (token, head), and the other half's row for each row (token, head, half)."""
    of_token = np.repeat(np.arange(tokens), heads)
    swapped = np.arange(2 * tokens * heads) ^ 1
    return paddle.to_tensor(of_token), paddle.to_tensor(swapped)
