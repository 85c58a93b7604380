"""The loop that all families share: latents from noise, or from a noisy picture, to a clean one.

Shapes: B pictures, L channels of the latents, h and w their rows and columns, H and W those of the picture.
Ho and Salimans, "Classifier-Free Diffusion Guidance", 2022 (arXiv 2207.12598); Meng et al., "SDEdit", 2022
(arXiv 2108.01073), for beginning from a picture; Lugmayr et al., "RePaint", 2022 (arXiv 2201.09865), equation
8, for a mask over a model that was not trained with one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import paddle
from paddle import Tensor

from mix_core.errors import BadInputError
from mix_core.inference.text_to_image.beginning import Beginning, begin
from mix_core.inference.text_to_image.families import Told
from mix_core.inference.text_to_image.model import PictureModel
from mix_core.inference.text_to_image.noise import Draws
from mix_core.inference.text_to_image.request import PictureRequest
from mix_core.models.prompt_encoders.model import Conditioning
from mix_core.ops.dtypes import cast


@paddle.no_grad()
def denoise(
    model: PictureModel, request: PictureRequest, draws: Draws, after: Callable[[int, int, Tensor], Any]
) -> Tensor:
    """Latents (B, L, h, w) float32 of a request that was checked; see `generate` for the arguments."""
    height, width = request.size(model.geometry)
    scheduler = model.scheduler_for(request.scheduler)
    steps = request.steps or model.family.steps
    tokens = {"tokens": model.geometry.tokens(height, width)} if model.family.flow else {}
    walk = scheduler.trajectory(steps, **tokens)
    guidance = model.family.guidance if request.guidance is None else request.guidance
    told = _told(model, request, guided=guidance > 1.0, size=(height, width))
    place = begin(model, request, walk, draws, (height, width))
    latents, total = place.latents, len(walk.timesteps) - place.first
    for i in range(place.first, len(walk.timesteps)):
        output = _output(model, walk, i, latents, place, told, guidance)
        noise = None
        if walk.noisy:
            noise = paddle.to_tensor(draws.step(i, tuple(latents.shape[1:]), request.count))
        latents = place.kept(walk, i + 1, walk.step(i, output, latents, noise))
        changed = after(i + 1 - place.first, total, latents)
        latents = latents if changed is None else changed
    return latents


def _output(
    model: PictureModel, walk: Any, i: int, latents: Tensor, place: Beginning, told: Told, guidance: float
) -> Tensor:
    """What the network says of the latents at step i, guided; (B, L, h, w) float32."""
    x = place.beside(walk.scaled(latents, i))
    guided = told.text.embeds.shape[0] > x.shape[0]
    x = paddle.concat([x, x]) if guided else x
    output = cast(model.family.call(model.network, x, float(walk.timesteps[i]), told), paddle.float32)
    if not guided:
        return output
    away, towards = output.split(2, axis=0)
    return away + guidance * (towards - away)


def _told(model: PictureModel, request: PictureRequest, *, guided: bool, size: tuple[int, int]) -> Told:
    """Of 2 B rows, the negative ones first, or of B where pictures are not guided."""
    options: dict[str, Any] = {"clip_skip": request.clip_skip, "images": request.num_images}
    if guided:
        towards, away = model.prompts.pair(request.prompts, request.negatives, **options)
        text = _joined(away, towards)
    elif request.negatives is not None:
        raise BadInputError(
            "a negative prompt has no effect at a guidance of 1 or less; give more, or leave it out"
        )
    else:
        found = model.prompts(model.prompts.tokens(request.prompts), request.clip_skip)
        text = found.repeated(request.num_images)
    sizes = [*(request.original_size or size), *request.crop_top_left, *(request.target_size or size)]
    rows = paddle.to_tensor([[float(one) for one in sizes]]).expand([text.embeds.shape[0], len(sizes)])
    return Told(text, rows)


def _joined(first: Conditioning, second: Conditioning) -> Conditioning:
    if first.pooled is None or second.pooled is None:
        return Conditioning(paddle.concat([first.embeds, second.embeds]))
    return Conditioning(
        paddle.concat([first.embeds, second.embeds]), paddle.concat([first.pooled, second.pooled])
    )
