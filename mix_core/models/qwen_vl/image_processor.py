"""Pictures to what the tower takes: brought to one size, normalised. numpy and Pillow only.

Shapes: n pictures, S side. A picture stays as bytes until a batch is put together: a quarter of its size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from mix_core.models.common.geometry import byte_values, normalized

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""CLIP's; fixed in the published code, which has no preprocessor_config.json."""


@dataclass(frozen=True)
class ImageProcessor:
    side: int
    """To which both sides of every picture are brought, pixels; the aspect ratio is not kept."""

    def target_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that a picture is brought to."""
        return self.side, self.side

    def resized(self, images: Sequence[Image.Image]) -> np.ndarray:
        """RGB pictures -> (n, S, S, 3) uint8."""
        size = (self.side, self.side)
        return np.stack([np.asarray(image.resize(size, Image.Resampling.BICUBIC)) for image in images])

    def normalize(self, pixels: np.ndarray) -> np.ndarray:
        """(n, S, S, 3) uint8 -> pixel_values (n, 3, S, S) float32."""
        return normalized(pixels, byte_values(MEAN, STD))
