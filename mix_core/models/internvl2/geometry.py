"""What InternVL2 works out on the host, with numpy: resized position tables and rotary bases.

Shapes: B batch, S sequence.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

_SHARPNESS = -0.75
"""Of the cubic kernel; the value that torch's `interpolate` has, with which the models were trained."""


@lru_cache(maxsize=8)
def bicubic_matrix(inputs: int, outputs: int) -> np.ndarray:
    """Weights (outputs, inputs) float32 that resize one axis, pixel centres at half units, edges repeated.

    Keys, "Cubic convolution interpolation for digital image processing", 1981.
    """
    matrix = np.zeros((outputs, inputs))
    for row in range(outputs):
        place = (row + 0.5) * inputs / outputs - 0.5
        first = int(np.floor(place))
        for tap in range(first - 1, first + 3):
            matrix[row, min(max(tap, 0), inputs - 1)] += _cubic(abs(place - tap))
    return matrix.astype(np.float32)


def _cubic(x: float) -> float:
    a = _SHARPNESS
    if x <= 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    if x < 2:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return 0.0


def text_positions(
    attention_mask: np.ndarray | None, cu_seqlens: np.ndarray | None, shape: tuple[int, int]
) -> np.ndarray:
    """Positions (B, S) int64: each row, or segment of a packed row, counts its tokens from 0."""
    if cu_seqlens is not None:
        lengths = np.diff(cu_seqlens)
        starts = np.repeat(cu_seqlens[:-1], lengths)
        return (np.arange(shape[1]) - starts)[None].astype(np.int64)
    if attention_mask is None:
        return np.broadcast_to(np.arange(shape[1], dtype=np.int64), shape)
    return np.maximum(np.cumsum(attention_mask.astype(np.int64), axis=1) - 1, 0)


def sequence_lengths(positions_BS: np.ndarray) -> np.ndarray:
    """For each token how long its row, or its segment of a packed row, is up to its last token (B, S).

    A sequence begins where positions do not grow. Padding on the right repeats a position, and so is a
    sequence of its own.
    """
    begins = np.ones(positions_BS.shape, bool)
    begins[:, 1:] = np.diff(positions_BS, axis=1) <= 0
    flat = begins.reshape(-1)
    lengths = np.maximum.reduceat(positions_BS.reshape(-1), np.flatnonzero(flat)) + 1
    return lengths[np.cumsum(flat) - 1].reshape(positions_BS.shape)


def ntk_theta(theta: float, factor: float, length: int, trained: int, head_dim: int) -> float:
    """The rotary base for a sequence of `length` tokens: `theta` up to the `trained` length, larger beyond.

    Dynamic NTK scaling, as InternLM2's published code and transformers' "dynamic" rope have it.
    """
    if length <= trained:
        return theta
    return theta * (factor * length / trained - (factor - 1)) ** (head_dim / (head_dim - 2))
