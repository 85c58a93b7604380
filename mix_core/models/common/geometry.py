"""What several families work out on the host: positions of text, tables to resize, patches.

Shapes: B batch, S sequence, N pictures or tiles, C colours, P patches of one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image

_SHARPNESS = -0.75
"""Of the cubic kernel; the value that torch's `interpolate` has, with which the models were trained."""


def text_positions(
    shape: tuple[int, int], mask_BS: np.ndarray | None = None, cu_seqlens: np.ndarray | None = None
) -> np.ndarray:
    """Positions (B, S) int64: from 0 in each row, or in each segment of a packed row; 0 at padding."""
    if cu_seqlens is not None:
        lengths = np.diff(cu_seqlens)
        return (np.arange(shape[1]) - np.repeat(cu_seqlens[:-1], lengths))[None].astype(np.int64)
    if mask_BS is None:
        return np.broadcast_to(np.arange(shape[1], dtype=np.int64), shape)
    present = mask_BS.astype(bool)
    return np.where(present, np.cumsum(present, axis=1) - 1, 0)


def sequence_lengths(positions_BS: np.ndarray) -> np.ndarray:
    """For each token how long its row, or its segment of a packed row, is up to its last token (B, S).

    A sequence begins where positions do not grow; so does each token of padding.
    """
    begins = np.ones(positions_BS.shape, bool)
    begins[:, 1:] = np.diff(positions_BS, axis=1) <= 0
    flat = begins.reshape(-1)
    lengths = np.maximum.reduceat(positions_BS.reshape(-1), np.flatnonzero(flat)) + 1
    return lengths[np.cumsum(flat) - 1].reshape(positions_BS.shape)


@lru_cache(maxsize=8)
def bicubic_matrix(inputs: int, outputs: int) -> np.ndarray:
    """Weights (outputs, inputs) that resize one axis as torch's `interpolate(mode="bicubic")` does.

    Pixel centres at half units, edges repeated, no smoothing. Keys, "Cubic convolution interpolation for
    digital image processing", 1981.
    """
    at = (np.arange(outputs) + 0.5) * inputs / outputs - 0.5
    taps = np.floor(at)[:, None] + np.arange(-1, 3)
    columns = np.clip(taps, 0, inputs - 1).astype(np.int64)
    matrix = np.zeros((outputs, inputs))
    np.add.at(matrix, (np.arange(outputs)[:, None], columns), _cubic(at[:, None] - taps))
    return matrix


def _cubic(distance: np.ndarray) -> np.ndarray:
    d, a = np.abs(distance), _SHARPNESS
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def patches_of(pixels_NCSS: np.ndarray, side: int) -> np.ndarray:
    """Squares of pixels cut to flattened patches (N, P, C * side * side), row by row."""
    N, C, S, _ = pixels_NCSS.shape
    G = S // side
    split = pixels_NCSS.reshape(N, C, G, side, G, side).transpose(0, 2, 4, 1, 3, 5)
    return np.ascontiguousarray(split).reshape(N, G * G, -1)


@lru_cache(maxsize=4)
def byte_values(mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """(C, 256) float32: the value of each byte, with the float32 steps of torchvision's transforms."""
    levels = np.arange(256, dtype=np.float32) / np.float32(255)
    means, stds = (np.array(values, np.float32)[:, None] for values in (mean, std))
    return (levels - means) / stds


def normalized(pixels_NSSC: np.ndarray, values_C256: np.ndarray) -> np.ndarray:
    """Pictures (N, S, S, C) uint8 -> pixel_values (N, C, S, S) float32, by a table of `byte_values`."""
    N, height, width, C = pixels_NSSC.shape
    out = np.empty((N, C, height, width), np.float32)
    for colour, of_byte in enumerate(values_C256):
        np.take(of_byte, pixels_NSSC[..., colour], out=out[:, colour])
    return out


def squared(image: Image.Image, mean: Sequence[float]) -> Image.Image:
    """An RGB picture in the middle of a square of its longer side, in the mean colour (0 to 1)."""
    if image.width == image.height:
        return image
    longer = max(image.size)
    square = Image.new("RGB", (longer, longer), tuple(int(value * 255) for value in mean))
    square.paste(image, ((longer - image.width) // 2, (longer - image.height) // 2))
    return square
