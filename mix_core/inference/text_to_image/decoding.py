"""Latents to pictures.

Shapes: B pictures, L channels of the latents, h and w their rows and columns, C colours, H and W pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
from paddle import Tensor
from PIL import Image

from mix_core.errors import BadInputError
from mix_core.inference.text_to_image.model import PictureModel
from mix_core.ops.dtypes import NARROW, cast


@paddle.no_grad()
def pictures_of(model: PictureModel, latents_BLhw: Tensor) -> list[Image.Image]:
    """Raises BadInputError where a number is not finite, and says which part it comes from."""
    if not _finite(latents_BLhw):
        raise BadInputError(
            f"the {model.family.part} gave numbers that are not finite in {_dtype(model.network)}; "
            f"{_remedy(model.network)}"
        )
    if model.vae is None:
        return as_pictures(latents_BLhw.numpy())
    rows = latents_BLhw.split(latents_BLhw.shape[0], axis=0)  # one after the other, for memory's sake
    found = [cast(model.vae.decode(model.vae.from_network(row)), paddle.float32) for row in rows]
    if not all(map(_finite, found)):
        raise BadInputError(
            f"the autoencoder gave numbers that are not finite in {_dtype(model.vae)}; "
            f"{_vae_remedy(model.vae)}"
        )
    return as_pictures(np.concatenate([one.numpy() for one in found]))


def as_pictures(values_BCHW: np.ndarray) -> list[Image.Image]:
    """Numbers from -1 to 1 to 8 bits; one colour gives grey pictures."""
    shares = np.clip(values_BCHW / 2.0 + 0.5, 0.0, 1.0)
    bytes_BHWC = np.round(shares * 255.0).astype(np.uint8).transpose(0, 2, 3, 1)
    return [Image.fromarray(one[..., 0] if one.shape[-1] == 1 else one) for one in bytes_BHWC]


def _finite(values: Tensor) -> bool:
    return bool(np.isfinite(values.numpy()).all())


def _dtype(layer: Any) -> str:
    return str(next(iter(layer.parameters())).dtype).removeprefix("paddle.")


def _is_narrow(layer: Any) -> bool:
    return next(iter(layer.parameters())).dtype in NARROW


def _remedy(layer: Any) -> str:
    if _is_narrow(layer):
        return "give dtype bfloat16 or float32"
    return "are the weights damaged, or the guidance too strong?"


def _vae_remedy(vae: Any) -> str:
    """What helps where the published weights overflow (SDXL's do, in float16)."""
    if not _is_narrow(vae):
        return "are its weights damaged?"
    return (
        "give --vae with weights made for it (madebyollin/sdxl-vae-fp16-fix for SDXL), or set force_upcast "
        "to true in vae/config.json, which keeps the autoencoder in float32"
    )
