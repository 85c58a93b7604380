"""Pictures out of prompts: Stable Diffusion 1.5, SDXL, SD3 and models of the same parts.

`load_pictures` reads a model from its folder, `generate` draws with it. Training builds a `PictureModel` of
the parts that it has in memory and draws with the same function. Importing this package imports no paddle.
"""

from __future__ import annotations

from mix_core.inference.text_to_image.families import FAMILIES, PictureFamily
from mix_core.inference.text_to_image.model import PictureModel, load_pictures
from mix_core.inference.text_to_image.request import PictureRequest
from mix_core.inference.text_to_image.sampling import generate

__all__ = ["FAMILIES", "PictureFamily", "PictureModel", "PictureRequest", "generate", "load_pictures"]
