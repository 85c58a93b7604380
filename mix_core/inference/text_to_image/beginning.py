"""Where the loop begins: noise, a noisy picture, or a picture of which a mask says what is drawn anew.

Shapes: B pictures, L channels of the latents, h and w their rows and columns, H and W those of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from paddle import Tensor
from PIL import Image

from mix_core.data.images import load_image
from mix_core.errors import BadInputError
from mix_core.inference.text_to_image.model import PictureModel
from mix_core.inference.text_to_image.noise import Draws
from mix_core.inference.text_to_image.request import STRENGTH, PictureRequest
from mix_core.ops.dtypes import cast

HALF = 0.5
"""From where on a mask counts as white."""


@dataclass
class Beginning:
    """Latents, the step that they stand at, and what a mask keeps."""

    latents: Tensor
    """(B, L, h, w) float32"""
    first: int
    noise: Tensor
    """Of `latents`, (B, L, h, w)."""
    clean: Tensor | None = None
    """The picture's latents (1, L, h, w), where what the mask leaves out is put back after each step."""
    mask: Tensor | None = None
    """(1, 1, h, w), 1 where the picture is drawn anew."""
    extra: Tensor | None = None
    """(B, 1 + L, h, w): mask and masked picture, for a network that takes them beside the latents."""

    def beside(self, x: Tensor) -> Tensor:
        """The network's input: latents, and what goes in beside them."""
        return x if self.extra is None else paddle.concat([x, self.extra], axis=1)

    def kept(self, walk: Any, i: int, latents: Tensor) -> Tensor:
        """The latents of step i, with the picture's own where the mask is black, as noisy as they are."""
        if self.clean is None:
            return latents
        known = self.clean if i >= len(walk.timesteps) else walk.noised(self.clean, self.noise, i)
        return (1.0 - self.mask) * known + self.mask * latents


def begin(
    model: PictureModel, request: PictureRequest, walk: Any, draws: Draws, size: tuple[int, int]
) -> Beginning:
    """Of a request that was checked; `size`: height and width in pixels. Raises BadInputError."""
    picture = request.picture()
    shape = model.geometry.latent_shape(*size)
    if picture is None:
        noise = _noise(request, draws, shape)
        return Beginning(noise * walk.init_sigma, 0, noise)
    x_1CHW = pixels(picture, size, model.geometry)
    strength = (
        request.strength if request.strength is not None else 1.0 if request.mask is not None else STRENGTH
    )
    first = walk.first_step(strength)
    if first >= len(walk.timesteps):
        raise BadInputError(
            f"strength is {strength}, which leaves none of {len(walk.timesteps)} steps; give more of either"
        )
    from_noise = request.mask is not None and strength == 1.0
    puts_back = request.mask is not None and not model.geometry.inpaints
    clean = encoded(model, x_1CHW, draws) if puts_back or not from_noise else None
    noise = _noise(request, draws, shape)
    latents = noise * walk.init_sigma if from_noise else walk.noised(clean, noise, first)
    if request.mask is None:
        return Beginning(latents, first, noise)
    mask_11HW = white(request.mask, size)
    mask_11hw = mask_11HW[:, :, :: model.geometry.factor, :: model.geometry.factor]
    if puts_back:
        return Beginning(latents, first, noise, clean, mask_11hw)
    hidden = encoded(model, x_1CHW * cast(mask_11HW < HALF, paddle.float32), draws)
    beside = paddle.concat([mask_11hw, hidden], axis=1).expand([request.count, -1, -1, -1])
    return Beginning(latents, first, noise, extra=beside)


def _noise(request: PictureRequest, draws: Draws, shape: tuple[int, int, int]) -> Tensor:
    if request.latents is not None:
        return paddle.to_tensor(np.asarray(request.latents, np.float32))
    return paddle.to_tensor(draws.start(shape, request.count))


def encoded(model: PictureModel, x_1CHW: Tensor, draws: Draws) -> Tensor:
    """A picture's latents as the network takes them (1, L, h, w): a draw of the autoencoder's distribution,
    as the published pipelines take it; the picture itself where there is no autoencoder."""
    if model.vae is None:
        return x_1CHW
    found = model.vae.encode(x_1CHW)
    noise = paddle.to_tensor(draws.encoding(tuple(found.mean.shape[1:])))
    return cast(model.vae.to_network(found.sample(noise)), paddle.float32)


def pixels(picture: Image.Image, size: tuple[int, int], geometry: Any) -> Tensor:
    """A picture resized, its sides not kept in proportion, from -1 to 1 (1, C, H, W) float32."""
    colours = geometry.channels if geometry.vae is None else geometry.vae.in_channels
    sized = picture.convert("L" if colours == 1 else "RGB").resize(
        (size[1], size[0]), Image.Resampling.LANCZOS
    )
    values = np.asarray(sized, np.float32).reshape(*size, -1) / np.float32(255.0)
    return paddle.to_tensor(np.ascontiguousarray(values.transpose(2, 0, 1))[None] * 2.0 - 1.0)


def white(mask: Any, size: tuple[int, int]) -> Tensor:
    """A mask resized, 1 where it is white, else 0, (1, 1, H, W) float32."""
    sized = load_image(mask).resize((size[1], size[0]), Image.Resampling.LANCZOS).convert("L")
    values = np.asarray(sized, np.float32) / np.float32(255.0)
    return paddle.to_tensor((values >= HALF).astype(np.float32)[None, None])
