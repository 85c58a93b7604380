"""What a picture draws: where it begins, the latents of a picture it begins from, what noisy steps add.

Drawn on the host from the seed and the picture's number, so that a seed gives the same picture on every
device, and picture 3 of a seed is the same alone and among others.

Shapes: B pictures, L channels of the latents, h and w their rows and columns.
"""

from __future__ import annotations

import numpy as np

from mix_core.schedulers.noise import NoiseStream, latent_noise

Shape = tuple[int, int, int]
"""(L, h, w)"""
_ENCODING = (0, 1)
"""The place of the noise by which a picture is encoded: behind that where picture 0 begins."""


class Draws:
    """Of one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def start(self, shape: Shape, count: int) -> np.ndarray:
        """Where pictures begin, (B, L, h, w) float32."""
        return latent_noise(shape, self.seed, count)

    def encoding(self, shape: Shape) -> np.ndarray:
        """What a picture is encoded with, the same for all that begin from it, (1, L, h, w) float32."""
        return NoiseStream(self.seed, *_ENCODING).normal(shape)[None]

    def step(self, i: int, shape: Shape, count: int) -> np.ndarray:
        """What step i adds, (B, L, h, w) float32."""
        return np.stack([NoiseStream(self.seed, row, 1 + i, 1).normal(shape) for row in range(count)])
