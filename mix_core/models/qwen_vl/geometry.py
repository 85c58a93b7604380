"""Numbers without parameters: position tables of pictures, and what a long text does to rotary and attention.

numpy only. Shapes: B batch, S sequence, G grid side, D width.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

_SHARPNESS = -0.75
"""Keys' parameter of the cubic kernel, as in PyTorch's bicubic resizing."""


def _cubic(distance: np.ndarray) -> np.ndarray:
    """Keys, "Cubic convolution interpolation for digital image processing", 1981."""
    d, a = np.abs(distance), _SHARPNESS
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


@lru_cache(maxsize=8)
def resizing(source: int, target: int) -> np.ndarray | None:
    """The matrix (target^2, source^2) float32 that resizes a square grid bicubically; None where it stays.

    As PyTorch's `interpolate(mode="bicubic", align_corners=False)`: no smoothing, edges repeated.
    """
    if source == target:
        return None
    at = (np.arange(target) + 0.5) * source / target - 0.5
    taps = np.floor(at)[:, None] + np.arange(-1, 3)
    weights = _cubic(at[:, None] - taps)
    columns = np.clip(taps, 0, source - 1).astype(np.int64)
    along = np.zeros((target, source))
    np.add.at(along, (np.arange(target)[:, None], columns), weights)
    return np.kron(along, along).astype(np.float32)


def sincos_table(grid: int, width: int) -> np.ndarray:
    """Fixed positions of a square of queries (G^2, D) float32, row by row.

    The first half of the width holds the column, the second the row, each as sines and then cosines.
    He et al., "Masked Autoencoders Are Scalable Vision Learners", 2022.
    """
    frequencies = 1.0 / 10000 ** (np.arange(width // 4, dtype=np.float32) / np.float32(width / 4))
    angles_GF = np.arange(grid, dtype=np.float32)[:, None] * frequencies
    of_axis_GD = np.concatenate([np.sin(angles_GF), np.cos(angles_GF)], axis=1)
    column, row = np.tile(of_axis_GD, (grid, 1)), np.repeat(of_axis_GD, grid, axis=0)
    return np.concatenate([column, row], axis=1).astype(np.float32)


def text_positions(shape: tuple[int, int], mask_BS: np.ndarray | None, ends: np.ndarray | None) -> np.ndarray:
    """Positions (B, S) int64: from 0 in each row, or in each segment of a packed row; 0 at padding."""
    if ends is not None:
        lengths = np.diff(ends)
        return (np.arange(shape[1]) - np.repeat(ends[:-1], lengths))[None].astype(np.int64)
    if mask_BS is None:
        return np.broadcast_to(np.arange(shape[1], dtype=np.int64), shape)
    present = mask_BS.astype(bool)
    return np.where(present, np.cumsum(present, axis=1) - 1, 0).astype(np.int64)


def row_lengths(positions_BS: np.ndarray) -> np.ndarray:
    """For each token the length (B, S) of the row or segment it stands in, which begins at a position 0."""
    begins = positions_BS == 0
    begins[:, 0] = True
    firsts = np.flatnonzero(begins)
    sizes = np.diff(np.append(firsts, positions_BS.size))
    greatest = np.maximum.reduceat(positions_BS.reshape(-1), firsts) + 1
    return np.repeat(greatest, sizes).reshape(positions_BS.shape)


def ntk_alpha(lengths: np.ndarray, trained: int) -> np.ndarray:
    """Factor of the rotary base for prompts of these lengths: 1 within the trained one, then 3, 7, 15..."""
    doublings = np.ceil(np.log2(np.maximum(lengths, trained) / trained) + 1)
    return np.maximum(2.0**doublings - 1, 1)


def logn_scales(positions_BS: np.ndarray, trained: int) -> np.ndarray | None:
    """Factors (B, S) float32 of queries: log(place, trained) from there on, places from 1; None for all 1."""
    if positions_BS.max(initial=0) < trained:
        return None
    places = np.maximum(positions_BS + 1, trained)
    return (np.log(places) / np.log(trained)).astype(np.float32)
