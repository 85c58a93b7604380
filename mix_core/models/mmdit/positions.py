"""The table of positions of SD3's tokens: sines and cosines of a token's column and row.

Peebles and Xie, "Scalable Diffusion Models with Transformers", 2023; the middle of a table that is larger
than any picture: Esser et al., "Scaling Rectified Flow Transformers", 2024. Published files store the table;
it is computed here, so that no memory is held for what the formula says.

Shapes: h and w rows and columns of tokens, D model dim.
"""

from __future__ import annotations

import numpy as np

from mix_core.errors import DataError
from mix_core.models.mmdit.config import MMDiTConfig


def middle(config: MMDiTConfig, rows: int, columns: int) -> np.ndarray:
    """The table's middle (h * w, D), float32. Raises DataError where it is too small."""
    side = config.pos_embed_max_size
    if max(rows, columns) > side:
        raise DataError(
            f"latents of {rows * config.patch_size} x {columns * config.patch_size} make {rows} x {columns} "
            f"tokens; the model has positions for {side} x {side}: make the picture smaller"
        )
    top, left = (side - rows) // 2, (side - columns) // 2
    return table(config, top, left, rows, columns)


def table(config: MMDiTConfig, top: int, left: int, rows: int, columns: int) -> np.ndarray:
    """A part of the table (rows * columns, D), float32: the first half of D says the column, then the row."""
    unit = np.float32(config.pos_embed_max_size / (config.sample_size // config.patch_size))
    of_column = _waves((np.arange(left, left + columns, dtype=np.float32) / unit), config.width // 2)
    of_row = _waves((np.arange(top, top + rows, dtype=np.float32) / unit), config.width // 2)
    shape = (rows, columns, config.width // 2)
    halves = (np.broadcast_to(of_column[None], shape), np.broadcast_to(of_row[:, None], shape))
    return np.concatenate(halves, axis=-1).reshape(rows * columns, config.width)


def _waves(places: np.ndarray, width: int) -> np.ndarray:
    """Sines, then cosines (places, width), of angles taken in float64, as diffusers takes them."""
    frequencies = 1.0 / 10000.0 ** (np.arange(width // 2, dtype=np.float64) / (width / 2))
    angles = np.outer(places.astype(np.float64), frequencies)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)
