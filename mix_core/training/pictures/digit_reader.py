"""A small classifier that learns the bundled handwritten digits and names generated ones.

Kernel ridge regression on means over cells of 4 x 4 pixels, in numpy: it is trained in seconds, has no seed,
and knows nothing of the model whose pictures it names. Saunders et al., "Ridge Regression Learning Algorithm
in Dual Variables", 1998.

Shapes: N pictures, M training pictures, F cells, K digits.
"""

from __future__ import annotations

import numpy as np

from mix_core.data.digit_captions import NAMES, SIDE_PX, digit_pictures

TRAINED_ON = 6000
HELD_OUT = 720
CELL_PX = 4
SHARPNESS = 6.0
RIDGE = 1e-2


class DigitReader:
    """Learns pictures of the training scans; `held_out` says how well it reads the others."""

    def __init__(self) -> None:
        pictures, digits = digit_pictures("train", TRAINED_ON, seed=1)
        self._seen_MF = _features(pictures)
        kernel_MM = _kernel(self._seen_MF, self._seen_MF) + RIDGE * np.eye(len(digits), dtype=np.float32)
        self._weights_MK = np.linalg.solve(kernel_MM, np.eye(len(NAMES), dtype=np.float32)[digits])

    def read(self, pictures_NHW: np.ndarray) -> np.ndarray:
        """The digits (N,) of pictures (N, 32, 32) uint8, black on white."""
        scores_NK = _kernel(_features(pictures_NHW), self._seen_MF) @ self._weights_MK
        named: np.ndarray = scores_NK.argmax(axis=1)
        return named

    def held_out(self) -> float:
        """The share of real pictures of held-out scans that is read right."""
        pictures, digits = digit_pictures("eval", HELD_OUT)
        return float((self.read(pictures) == digits).mean())


def _features(pictures_NHW: np.ndarray) -> np.ndarray:
    """Ink of each cell, (N, F) float32, of length 1."""
    cells = SIDE_PX // CELL_PX
    grey = pictures_NHW.reshape(-1, cells, CELL_PX, cells, CELL_PX).mean((2, 4), dtype=np.float32)
    ink_NF = (1 - grey / np.float32(255)).reshape(len(pictures_NHW), -1)
    lengths = np.linalg.norm(ink_NF, axis=1, keepdims=True)
    return ink_NF / np.maximum(lengths, np.float32(1e-3))


def _kernel(a_NF: np.ndarray, b_MF: np.ndarray) -> np.ndarray:
    """Gaussian, (N, M) float32."""
    squares = (a_NF**2).sum(1)[:, None] + (b_MF**2).sum(1)[None] - 2 * a_NF @ b_MF.T
    return np.exp(-np.float32(SHARPNESS) * squares).astype(np.float32)
