"""What is asked of a text-to-image model, checked before anything slow begins. Imports no paddle.

Shapes: B pictures, L channels of the latents, h and w their rows and columns, H and W those of a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from PIL import Image

from mix_core.data.images import load_image
from mix_core.errors import BadInputError
from mix_core.inference.text_to_image.geometry import Geometry

STRENGTH = 0.8
"""Of image to image, where none is given; a mask alone decides in inpainting, so that is 1 there."""


@dataclass(frozen=True, kw_only=True)
class PictureRequest:
    """Raises BadInputError for values that no model takes."""

    prompt: str | Sequence[str]
    """One, or one for each picture that is wanted."""
    negative_prompt: str | Sequence[str] | None = None
    """What pictures are guided away from: one for all, or one for each prompt."""
    num_images: int = 1
    """For each prompt."""
    steps: int | None = None
    """None: as the family's published pipeline has it."""
    guidance: float | None = None
    """How far pictures are guided away from the negative prompt; up to 1: not at all. Ho and Salimans,
    "Classifier-Free Diffusion Guidance", 2022 (arXiv 2207.12598)."""
    seed: int = 0
    width: int | None = None
    height: int | None = None
    """Pixels. None: those of `init_image`, else what the model was trained with."""
    init_image: Any = None
    """A picture to begin from: a path, an address, a PIL image or an array (H, W, 3) uint8. Meng et al.,
    "SDEdit", 2022 (arXiv 2108.01073)."""
    mask: Any = None
    """White (from 128 of 255 on) where `init_image` is drawn anew."""
    strength: float | None = None
    """Share of the steps that `init_image` goes through, above 0, to 1."""
    latents: Any = None
    """Standard normal noise to begin with, (B, L, h, w) float32, in place of the seed's."""
    scheduler: str | None = None
    """A name in `mix_core.schedulers.KINDS`, in place of the folder's own."""
    clip_skip: int | None = None
    """Layers that are left out at the end of CLIP, for the prompt."""
    tile: int | None = None
    """Side in pixels of the tiles by which larger pictures go through the autoencoder; None: whole."""
    original_size: tuple[int, int] | None = None
    crop_top_left: tuple[int, int] = (0, 0)
    target_size: tuple[int, int] | None = None
    """What SDXL is told of a picture's sizes, (height, width) in pixels; None: the picture's own. Podell et
    al., 2023 (arXiv 2307.01952), section 2.2."""
    prompts: tuple[str, ...] = field(init=False)
    negatives: tuple[str, ...] | None = field(init=False)

    def __post_init__(self) -> None:
        set_to = object.__setattr__  # frozen
        set_to(self, "prompts", _texts(self.prompt, "prompt"))
        away = self.negative_prompt
        set_to(self, "negatives", None if away is None else _texts(away, "negative_prompt"))
        for name, least in (("num_images", 1), ("steps", 1), ("width", 1), ("height", 1), ("tile", 8)):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < least):
                raise BadInputError(f"{name} is {value!r}, expected a whole number of {least} or more")
        self._check_pictures()

    def _check_pictures(self) -> None:
        if self.mask is not None and self.init_image is None:
            raise BadInputError("mask is given without init_image: give the picture that it is a mask of")
        if self.strength is not None and self.init_image is None:
            raise BadInputError("strength is given without init_image: give the picture to begin from")
        if self.strength is not None and not 0 < self.strength <= 1:
            raise BadInputError(f"strength is {self.strength}, expected more than 0, to 1")

    @classmethod
    def of(cls, prompt: str | Sequence[str], **options: Any) -> PictureRequest:
        """From keywords. Raises BadInputError for an unknown one."""
        known = [one.name for one in fields(cls) if one.init]
        unknown = [name for name in options if name not in known]
        if unknown:
            raise BadInputError(f"generate has no option {unknown[0]!r}; there are {', '.join(known)}")
        return cls(prompt=prompt, **options)

    @property
    def count(self) -> int:
        """Pictures in all."""
        return len(self.prompts) * self.num_images

    def picture(self) -> Image.Image | None:
        """`init_image`, opened."""
        return None if self.init_image is None else load_image(self.init_image)

    def size(self, geometry: Geometry) -> tuple[int, int]:
        """Height and width in pixels. Raises BadInputError where the model cannot have them."""
        picture = None
        if self.init_image is not None and (self.height is None or self.width is None):
            picture = self.picture()
        usual = geometry.usual_size if picture is None else geometry.within(picture.height, picture.width)
        height, width = self.height or usual[0], self.width or usual[1]
        geometry.check(height, width)
        return height, width

    def check(self, geometry: Geometry) -> None:
        """Raise BadInputError where the model and what is asked do not fit."""
        height, width = self.size(geometry)
        if geometry.inpaints and self.mask is None:
            raise BadInputError(
                f"the model takes {geometry.inputs} channels, which are for inpainting: give init_image and "
                "mask"
            )
        if self.latents is not None:
            found, wanted = np.shape(self.latents), (self.count, *geometry.latent_shape(height, width))
            if tuple(found) != wanted:
                raise BadInputError(
                    f"latents have shape {tuple(found)}, expected {wanted}: {self.count} picture(s), "
                    f"{geometry.channels} channels, {height} x {width} pixels"
                )


def _texts(given: str | Sequence[str], name: str) -> tuple[str, ...]:
    texts: tuple[Any, ...] = (given,)
    if isinstance(given, Sequence) and not isinstance(given, str):
        texts = tuple(given)
    if not texts or not all(isinstance(text, str) for text in texts):
        raise BadInputError(f"{name} is {given!r}, expected a text or several")
    return texts
