"""Any-resolution pictures (LLaVA-1.6): which tiles a picture is cut into and which of their patches count.

numpy only. A picture is brought to the pinpoint that shows most of it, with black bars where the aspects
differ, and cut into tiles; a small view of all of it stands before them. Of the grid of patches that the
tiles form together, rows or columns that lie in the bars are dropped, and a newline closes each row.
Liu et al., "LLaVA-NeXT: Improved reasoning, OCR, and world knowledge", 2024.

Shapes: P patches along a side of a tile, R rows for the decoder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from mix_core.models.llava.config import Size

NEWLINE = -1
"""In `rows_of`: the place of a newline."""


@lru_cache(maxsize=4096)
def best_pinpoint(size: Size, pinpoints: tuple[Size, ...]) -> Size:
    """The pinpoint that keeps most of a picture's pixels; of equals the least wasteful, then the first."""
    height, width = size
    best, most, least_waste = pinpoints[0], -1, 0
    for candidate in pinpoints:
        scale = min(candidate[1] / width, candidate[0] / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        waste = candidate[0] * candidate[1] - kept
        if kept > most or (kept == most and waste < least_waste):
            best, most, least_waste = candidate, kept, waste
    return best


def fitted_size(size: Size, target: Size) -> Size:
    """Greatest (height, width) of the picture's aspect, rounded up, within a pinpoint."""
    height, width = size
    scale_h, scale_w = target[0] / height, target[1] / width
    if scale_w < scale_h:
        return min(math.ceil(height * scale_w), target[0]), target[1]
    return target[0], min(math.ceil(width * scale_h), target[1])


def tile_count(size: Size, pinpoints: tuple[Size, ...], tile: int) -> int:
    """Tiles of a picture, the small view of all of it included."""
    height, width = best_pinpoint(size, pinpoints)
    return 1 + (height // tile) * (width // tile)


def _bars(size: Size, grid: Size) -> Size:
    """Rows at top and bottom, columns at left and right, of a grid of patches that show bars only."""
    height, width = size
    rows, columns = grid
    # rounding at the seventh place is part of the published computation
    if width / height > columns / rows:
        return (rows - int(round(height * (columns / width), 7))) // 2, 0
    return 0, (columns - int(round(width * (rows / height), 7))) // 2


@lru_cache(maxsize=4096)
def rows_of(size: Size, pinpoints: tuple[Size, ...], tile: int, P: int) -> np.ndarray:
    """For each row that a picture gives the decoder, which row of its tiles it is (R,), or `NEWLINE`.

    The tiles' rows count from 0: P * P of the small view, then those of each tile.
    """
    height, width = best_pinpoint(size, pinpoints)
    down, across = height // tile, width // tile
    whole = np.arange(P * P, P * P * (1 + down * across)).reshape(down, across, P, P)
    whole = whole.transpose(0, 2, 1, 3).reshape(down * P, across * P)
    top, left = _bars(size, whole.shape)
    whole = whole[top : whole.shape[0] - top, left : whole.shape[1] - left]
    lines = np.concatenate([whole, np.full((len(whole), 1), NEWLINE)], axis=1)
    return np.concatenate([np.arange(P * P), lines.reshape(-1)])


def batch_rows(sizes: Sequence[Size], pinpoints: tuple[Size, ...], tile: int, P: int) -> np.ndarray:
    """`rows_of` for several pictures whose tiles stand one after another, (R,)."""
    first, found = 0, []
    for size in sizes:
        rows = rows_of(size, pinpoints, tile, P)
        found.append(np.where(rows == NEWLINE, NEWLINE, rows + first))
        first += tile_count(size, pinpoints, tile) * P * P
    return np.concatenate(found)
