"""What tells the families of text to image apart: which network, what it is told, how its folder names it.

Imports no paddle. Shapes: B rows, C channels, h and w rows and columns of the latents.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mix_core.models.prompt_encoders import SD3, SD15, SDXL

if TYPE_CHECKING:
    from paddle import Tensor

    from mix_core.models.prompt_encoders.model import Conditioning


@dataclass(frozen=True)
class Told:
    """What a network is told of the rows of a batch, beside the noisy latents and the time step."""

    text: Conditioning
    sizes_B6: Tensor
    """Original height and width, top and left of the crop, target height and width, in pixels."""


def _unet(network: Any, x_BChw: Tensor, timestep: float, told: Told) -> Tensor:
    return network(x_BChw, timestep, told.text.embeds)


def _unet_with_sizes(network: Any, x_BChw: Tensor, timestep: float, told: Told) -> Tensor:
    return network(x_BChw, timestep, told.text.embeds, told.text.pooled, told.sizes_B6)


def _mmdit(network: Any, x_BChw: Tensor, timestep: float, told: Told) -> Tensor:
    return network(x_BChw, told.text.embeds, told.text.pooled, timestep)


@dataclass(frozen=True, kw_only=True)
class PictureFamily:
    """One family. Its defaults are those of the published pipelines."""

    name: str
    title: str
    """As texts for people name it."""
    pipeline: str
    """The class that model_index.json names, without Img2Img or Inpaint."""
    part: str
    """The network's sub-folder, and its prefix in an adapter's file."""
    network: str
    """The network's class."""
    flow: bool
    """Whether the network gives a flow's velocity."""
    steps: int
    guidance: float
    call: Callable[[Any, Tensor, float, Told], Tensor]
    """(network, noisy latents (B, C, h, w), time step, what it is told) -> noise or velocity (B, c, h, w)."""


_UNET = {"part": "unet", "network": "UNet2DConditionModel", "flow": False, "steps": 50}

FAMILIES: dict[str, PictureFamily] = {
    family.name: family
    for family in (
        PictureFamily(
            name="sd15",
            title="Stable Diffusion 1.5",
            pipeline=SD15,
            guidance=7.5,
            call=_unet,
            **_UNET,  # type: ignore[arg-type]
        ),
        PictureFamily(
            name="sdxl",
            title="SDXL",
            pipeline=SDXL,
            guidance=5.0,
            call=_unet_with_sizes,
            **_UNET,  # type: ignore[arg-type]
        ),
        PictureFamily(
            name="sd3",
            title="SD3",
            pipeline=SD3,
            part="transformer",
            network="SD3Transformer2DModel",
            flow=True,
            steps=28,
            guidance=7.0,
            call=_mmdit,
        ),
    )
}


def family_of_pipeline(kind: str) -> PictureFamily:
    """By what `pipeline_of` gives of model_index.json."""
    return next(family for family in FAMILIES.values() if family.pipeline == kind)
