"""Pictures as a text-to-image model learns them: resized, cut to a size, perhaps mirrored.

What is drawn for a picture depends on seed, epoch and sample, so a run repeats, and each epoch cuts anew.

Shapes: C colours, H height, W width, in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from mix_core.data.draws import Draws
from mix_core.errors import ConfigError


@dataclass(frozen=True)
class Augmentation:
    """The keys of a run that say how a picture is cut."""

    center_crop: bool = False
    """Whether the middle is kept; else a place is drawn."""
    random_flip: bool = False
    """Whether every second picture is mirrored, left to right."""
    empty_prompts: float = 0.0
    """Share of prompts that are replaced by an empty one (`proportion_empty_prompts`): what guidance needs
    (Ho and Salimans, "Classifier-Free Diffusion Guidance", 2022, arXiv 2207.12598)."""

    def __post_init__(self) -> None:
        if not 0 <= self.empty_prompts <= 1:
            raise ConfigError(f"proportion_empty_prompts is {self.empty_prompts}, expected 0 to 1")


@dataclass(frozen=True)
class Drawn:
    """What is drawn for one sample in one epoch."""

    top: float
    left: float
    """Places of the cut, as shares of the room that there is."""
    flip: bool
    caption: int
    """Which of the picture's captions."""
    empty: bool


def draw_for(augmentation: Augmentation, captions: int, seed: int, epoch: int, sample: int) -> Drawn:
    """The draws of a sample; the same in whatever order, batch or process."""
    draws = Draws("picture", seed, epoch, sample)
    top, left, flip, empty = draws.fractions(4).tolist()
    if augmentation.center_crop:
        top = left = 0.5
    return Drawn(
        top,
        left,
        augmentation.random_flip and flip < 0.5,
        draws.below(captions),
        empty < augmentation.empty_prompts,
    )


@dataclass(frozen=True)
class Cut:
    """A picture for the model, and its origin, which SDXL is told (Podell et al., 2023, section 2.2)."""

    pixels: np.ndarray
    """(C, H, W) float32, -1 to 1."""
    original: tuple[int, int]
    """Height and width of the file's picture."""
    corner: tuple[int, int]
    """Top and left of the cut in the resized picture."""

    @property
    def time_ids(self) -> tuple[int, ...]:
        """SDXL's six numbers: original height and width, top and left of the cut, height and width."""
        return *self.original, *self.corner, *self.pixels.shape[1:]


def cut_picture(image: Image.Image, size: tuple[int, int], drawn: Drawn) -> Cut:
    """The RGB picture resized until it just covers `size` (height, width), then cut and mirrored.

    A mirrored cut has its corner counted from the mirrored picture's left side.
    """
    height, width = size
    scale = max(height / image.height, width / image.width)
    covering = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    # bilinear with as wide a filter as the scale asks for, as the source scripts resize
    resized = image.resize(covering, Image.Resampling.BILINEAR)
    top = round(drawn.top * (resized.height - height))
    left = round(drawn.left * (resized.width - width))
    part = resized.crop((left, top, left + width, top + height))
    if drawn.flip:
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        left = resized.width - width - left
    pixels_HWC = np.asarray(part, np.float32) / np.float32(127.5) - np.float32(1)
    pixels = np.ascontiguousarray(pixels_HWC.transpose(2, 0, 1))
    return Cut(pixels, (image.height, image.width), (top, left))
