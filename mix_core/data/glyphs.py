"""The bundled handwritten digits: reading them, splitting them, drawing them at any size.

The 1,797 scans are the test part of 'Optical Recognition of Handwritten Digits' (E. Alpaydin and C. Kaynak,
UCI Machine Learning Repository, 1998, https://doi.org/10.24432/C50P49, CC BY 4.0), in the order and form in
which scikit-learn carries them: 8x8 cells of ink from 0 (paper) to 16.

Drawing uses integers only, so a picture has the same pixels on every machine.

Shapes: N scans, H and W pixels.
"""

from __future__ import annotations

import functools
from importlib import resources

import numpy as np

from mix_core.data.draws import Draws

SCAN_PX = 8
INK_MAX = 16
HELD_OUT_PER_DIGIT = 36  # 360 of 1,797 scans: 20 %
SPLIT_KEY = (
    "digits split",
    0,
)  # not the user's seed: a checkpoint never meets its training scans in evaluation
INK_VISIBLE = 4  # a pixel belongs to a digit's box when at least 1/4 of it is ink


@functools.cache
def load_scans() -> tuple[np.ndarray, np.ndarray]:
    """All scans as (images uint8 (N, 8, 8) in 0..16, labels uint8 (N,) in 0..9). Treat both as read-only."""
    with (
        resources.files("mix_core.data").joinpath("sample", "digits.npz").open("rb") as file,
        np.load(file, allow_pickle=False) as arrays,
    ):
        return arrays["images"], arrays["labels"]


@functools.cache
def split_scans() -> tuple[np.ndarray, np.ndarray]:
    """(training, held-out) scan numbers; the held-out ones have the same count of every digit."""
    _, labels_N = load_scans()
    draws = Draws(*SPLIT_KEY)
    train, held_out = [], []
    for digit in range(10):
        scans = np.flatnonzero(labels_N == digit)
        scans = scans[draws.permutation(len(scans))]
        held_out.append(scans[:HELD_OUT_PER_DIGIT])
        train.append(scans[HELD_OUT_PER_DIGIT:])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(held_out))


@functools.cache
def _bilinear_weights(size_px: int) -> np.ndarray:
    """Integer weights (size_px, SCAN_PX) of bilinear scaling; a full row sums to 2 * size_px.

    Pixel i has its centre at ((2 i + 1) * 8 / size - 1) / 2 in scan cells. Beyond the scan there is paper,
    so rows at the rim sum to less.
    """
    unit = 2 * size_px
    weights = np.zeros((size_px, SCAN_PX + 2), np.int64)  # one cell of paper on either side
    for i in range(size_px):
        cell, rest = divmod((2 * i + 1) * SCAN_PX - size_px, unit)
        weights[i, cell + 1] = unit - rest
        weights[i, cell + 2] = rest
    return weights[:, 1:-1]


def draw_ink(
    scan: np.ndarray, height_px: int, width_px: int | None = None, slant_px: int = 0
) -> tuple[np.ndarray, int]:
    """Scale one (8, 8) scan to (height_px, width_px) int64 ink; returns it and the value that means all ink.

    `width_px`: by default the height. `slant_px`: how far the top row lies to the right of the bottom row;
    what leaves the width is cut off.
    """
    width_px = height_px if width_px is None else width_px
    of_rows, of_columns = _bilinear_weights(height_px), _bilinear_weights(width_px)
    ink_HW = of_rows @ scan.astype(np.int64) @ of_columns.T
    if slant_px:
        ink_HW = np.stack(
            [
                _shifted(row, slant_px * (height_px - 1 - 2 * i) // (2 * height_px - 2))
                for i, row in enumerate(ink_HW)
            ]
        )
    return ink_HW, INK_MAX * (2 * height_px) * (2 * width_px)


def _shifted(row_W: np.ndarray, by: int) -> np.ndarray:
    """The row moved to the right, paper where it was."""
    moved = np.roll(row_W, by)
    if by > 0:
        moved[:by] = 0
    elif by < 0:
        moved[by:] = 0
    return moved


def ink_box(ink_HW: np.ndarray, full: int) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) around the visible ink, right and bottom exclusive, in pixels."""
    visible = ink_HW * INK_VISIBLE >= full
    rows, columns = np.flatnonzero(visible.any(axis=1)), np.flatnonzero(visible.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def put_ink(canvas_HW: np.ndarray, ink_HW: np.ndarray, full: int, left: int, top: int, tone: int) -> None:
    """Blend ink of grey `tone` into a uint8 canvas, in place; rounds to the nearest integer."""
    height, width = ink_HW.shape
    part = canvas_HW[top : top + height, left : left + width]
    mixed = part.astype(np.int64) * (full - ink_HW) + tone * ink_HW
    part[...] = (2 * mixed + full) // (2 * full)
