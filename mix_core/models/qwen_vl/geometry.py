"""Numbers without parameters: position tables of pictures, and what a long text does to rotary and attention.

numpy only. Shapes: B batch, S sequence, G grid side, D width.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from mix_core.models.common.geometry import bicubic_matrix


@lru_cache(maxsize=8)
def resizing(source: int, target: int) -> np.ndarray | None:
    """The matrix (target^2, source^2) float32 that resizes a square grid bicubically; None where it stays."""
    if source == target:
        return None
    along = bicubic_matrix(source, target)
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
