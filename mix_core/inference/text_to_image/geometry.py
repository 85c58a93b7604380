"""Sizes of a model's pictures and latents, from the configurations of its network and autoencoder.

Without an autoencoder the network draws pixels: latents are then the picture itself, from -1 to 1.

Imports no paddle. Shapes: L channels of the latents, h and w their rows and columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mix_core.errors import BadInputError


@dataclass(frozen=True)
class Geometry:
    network: Any
    """Its configuration."""
    vae: Any = None
    """Its configuration, where there is one."""

    def __post_init__(self) -> None:
        if self.inputs not in (self.channels, 2 * self.channels + 1) or self.outputs != self.channels:
            raise BadInputError(
                f"the network takes {self.inputs} channels and gives {self.outputs}, and the autoencoder's "
                f"latents have {self.channels}: do they belong together? expected {self.channels}, or "
                f"{2 * self.channels + 1} for inpainting"
            )

    @property
    def inputs(self) -> int:
        return int(self.network.in_channels)

    @property
    def outputs(self) -> int:
        return int(self.network.out_channels or self.network.in_channels)

    @property
    def channels(self) -> int:
        """Of the latents."""
        return self.outputs if self.vae is None else int(self.vae.latent_channels)

    @property
    def inpaints(self) -> bool:
        """Whether a mask and the masked picture go in beside the latents."""
        return self.inputs != self.channels

    @property
    def factor(self) -> int:
        """Pixels for each latent, along a side."""
        return 1 if self.vae is None else int(self.vae.factor)

    @property
    def patch(self) -> int:
        return int(getattr(self.network, "patch_size", 1))

    @property
    def multiple(self) -> int:
        """What a side in pixels must be a multiple of."""
        return self.factor * self.patch

    @property
    def usual_size(self) -> tuple[int, int]:
        """Height and width in pixels that the network was trained with."""
        if self.network.sample_size is None:
            side = self.factor if self.vae is None else self.vae.sample_size
        else:
            side = self.network.sample_size * self.factor
        return self.within(side, side)

    def within(self, height: int, width: int) -> tuple[int, int]:
        """The largest size that is possible and not larger."""
        one = self.multiple
        return max(height // one, 1) * one, max(width // one, 1) * one

    def check(self, height: int, width: int) -> None:
        """Raise BadInputError for sides that the model cannot have."""
        one = self.multiple
        most = getattr(self.network, "pos_embed_max_size", None)
        for name, side in (("height", height), ("width", width)):
            if side % one:
                near = max(side // one, 1) * one
                raise BadInputError(
                    f"{name} is {side}, expected a multiple of {one}; the nearest are {near} and {near + one}"
                )
            if most is not None and side > most * one:
                raise BadInputError(f"{name} is {side}, and the model has positions for {most * one} pixels")

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(L, h, w) of a picture."""
        return self.channels, height // self.factor, width // self.factor

    def tokens(self, height: int, width: int) -> int:
        """Tokens of a picture in a transformer."""
        return (height // self.multiple) * (width // self.multiple)
