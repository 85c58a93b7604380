"""The autoencoder of latent diffusion: pictures to distributions of latents, and latents to pictures.

Shapes: B batch, H and W rows and columns of the picture, h and w those of the latents, L latent channels,
C channels. Kingma and Welling, "Auto-Encoding Variational Bayes", 2014; Rombach et al., "High-Resolution
Image Synthesis with Latent Diffusion Models", 2022, section 3.1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import paddle
from paddle import Tensor, nn

from mix_core.errors import DataError
from mix_core.models.common.layers import residual
from mix_core.models.diffusion.attention import Attention, to_map, to_tokens
from mix_core.models.diffusion.layers import Conv2D, GroupNorm, pointwise
from mix_core.models.diffusion.recompute import run
from mix_core.models.diffusion.resnet import Downsample, ResNetBlock, Upsample
from mix_core.models.vae import NETWORK
from mix_core.models.vae.config import VAEConfig
from mix_core.models.vae.tiling import Tiles, in_tiles
from mix_core.ops.dtypes import cast, widened

EPS = 1e-6
"""Of all norms; fixed in the architecture."""


@dataclass(frozen=True)
class Gaussian:
    """A normal distribution for each latent, with no covariance; both tensors (B, L, h, w), the variance in
    float32."""

    mean: Tensor
    log_variance: Tensor

    def sample(self, noise_BLhw: Tensor) -> Tensor:
        """``mean + deviation * noise``; the caller draws the noise, so that all devices have the same."""
        deviation = paddle.exp(0.5 * self.log_variance)
        return self.mean + cast(deviation * cast(noise_BLhw, deviation.dtype), self.mean.dtype)

    def mode(self) -> Tensor:
        return self.mean

    def divergence(self) -> Tensor:
        """From the standard normal distribution (Kullback and Leibler), summed over a row's latents, (B,)."""
        terms = widened(self.mean) ** 2 + paddle.exp(self.log_variance) - 1.0 - self.log_variance
        return 0.5 * paddle.sum(terms, axis=[1, 2, 3])


class MapAttention(Attention):
    """Attention of one head over the places of a feature map, after a group norm, as a residual branch."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__(channels, 1, bias=True)
        self.group_norm = GroupNorm(groups, channels, EPS)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        tokens = super().forward(to_tokens(self.group_norm(x_BCHW)))
        return residual(x_BCHW, to_map(tokens, x_BCHW.shape))


class MidBlock(nn.Layer):
    def __init__(self, channels: int, groups: int, attends: bool) -> None:
        super().__init__()
        self.resnets = _resnets([channels] * 3, groups)
        self.attentions = nn.LayerList([MapAttention(channels, groups)] if attends else [])

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = self.resnets[0](x_BCHW)
        for attention in self.attentions:
            x_BCHW = attention(x_BCHW)
        return self.resnets[1](x_BCHW)


class DownBlock(nn.Layer):
    def __init__(self, widths: list[int], groups: int, last: bool) -> None:
        super().__init__()
        self.resnets = _resnets(widths, groups)
        self.downsamplers = nn.LayerList([] if last else [Downsample(widths[-1], one_sided=True)])

    def forward(self, x_BCHW: Tensor) -> Tensor:
        for layer in (*self.resnets, *self.downsamplers):
            x_BCHW = layer(x_BCHW)
        return x_BCHW


class UpBlock(nn.Layer):
    def __init__(self, widths: list[int], groups: int, last: bool) -> None:
        super().__init__()
        self.resnets = _resnets(widths, groups)
        self.upsamplers = nn.LayerList([] if last else [Upsample(widths[-1])])

    def forward(self, x_BCHW: Tensor) -> Tensor:
        for layer in (*self.resnets, *self.upsamplers):
            x_BCHW = layer(x_BCHW)
        return x_BCHW


def _resnets(widths: list[int], groups: int) -> nn.LayerList:
    """Residual blocks one after the other; `widths` are the channels before, between and after them."""
    return nn.LayerList([ResNetBlock(i, o, groups, EPS, None) for i, o in pairwise(widths)])


class Encoder(nn.Layer):
    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths, groups = config.block_out_channels, config.norm_num_groups
        self.conv_in = Conv2D(config.in_channels, widths[0])
        self.down_blocks = nn.LayerList(
            [
                DownBlock([before, *[width] * config.layers_per_block], groups, i == len(widths) - 1)
                for i, (before, width) in enumerate(zip((widths[0], *widths), widths))
            ]
        )
        self.mid_block = MidBlock(widths[-1], groups, config.mid_block_add_attention)
        self.conv_norm_out = GroupNorm(groups, widths[-1], EPS)
        self.conv_out = Conv2D(widths[-1], 2 * config.latent_channels)

    def forward(self, x_BCHW: Tensor, again: bool) -> Tensor:
        x_BCHW = cast(self.conv_in(x_BCHW), self.conv_norm_out.weight.dtype)
        for block in (*self.down_blocks, self.mid_block):
            x_BCHW = run(block, again, x_BCHW)
        return self.conv_out(self.conv_norm_out(x_BCHW, silu=True))


class Decoder(nn.Layer):
    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths, groups = config.block_out_channels[::-1], config.norm_num_groups
        self.conv_in = Conv2D(config.latent_channels, widths[0])
        self.mid_block = MidBlock(widths[0], groups, config.mid_block_add_attention)
        self.up_blocks = nn.LayerList(
            [
                UpBlock([before, *[width] * (config.layers_per_block + 1)], groups, i == len(widths) - 1)
                for i, (before, width) in enumerate(zip((widths[0], *widths), widths))
            ]
        )
        self.conv_norm_out = GroupNorm(groups, widths[-1], EPS)
        self.conv_out = Conv2D(widths[-1], config.out_channels)

    def forward(self, z_BLhw: Tensor, again: bool) -> Tensor:
        x_BCHW = cast(self.conv_in(z_BLhw), self.conv_norm_out.weight.dtype)
        for block in (self.mid_block, *self.up_blocks):
            x_BCHW = run(block, again, x_BCHW)
        return self.conv_out(self.conv_norm_out(x_BCHW, silu=True))


class AutoencoderKL(nn.Layer):
    network = NETWORK
    zero_at_first: tuple[str, ...] = ()

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        L = config.latent_channels
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quant_conv = pointwise(2 * L, 2 * L) if config.use_quant_conv else None
        self.post_quant_conv = pointwise(L, L) if config.use_post_quant_conv else None
        self.recompute = False
        """Whether blocks are computed again going backward."""
        self.tiles: Tiles | None = None
        """How larger pictures are cut, where they are; see `use_tiles`."""
        self.slices = False
        """Whether the rows of a batch go through one after the other."""

    def use_tiles(self, pixels: int | None = None, *, overlap: float = 0.25) -> None:
        """Cut pictures larger than `pixels` a side into overlapping tiles of it; None: config.sample_size."""
        side = self.config.sample_size if pixels is None else pixels
        if side < self.config.factor or not 0.0 <= overlap < 1.0:
            raise ValueError(
                f"tiles of {side} pixels that overlap by {overlap}: expected at least {self.config.factor} "
                "pixels and an overlap from 0 to less than 1"
            )
        self.tiles = Tiles(side, side // self.config.factor, overlap)

    def encode(self, x_BCHW: Tensor) -> Gaussian:
        """Pictures (B, 3, H, W), from -1 to 1, to the distribution of their latents (B, L, h, w).

        Raises DataError where a side is not a multiple of the factor (8 in published models).
        """
        config = self.config
        sides = x_BCHW.shape[2:]
        if x_BCHW.ndim != 4 or x_BCHW.shape[1] != config.in_channels or any(n % config.factor for n in sides):
            raise DataError(
                f"the autoencoder got pictures of shape {list(x_BCHW.shape)}; expected {config.in_channels} "
                f"channels and sides that are multiples of {config.factor}"
            )
        moments = self._each(x_BCHW, self._encode)
        mean, log_variance = moments.split(2, axis=1)
        return Gaussian(mean, paddle.clip(widened(log_variance), -30.0, 20.0))

    def decode(self, z_BLhw: Tensor) -> Tensor:
        """Latents (B, L, h, w), as `encode` gives them, to pictures (B, 3, H, W), about -1 to 1."""
        if z_BLhw.ndim != 4 or z_BLhw.shape[1] != self.config.latent_channels:
            raise DataError(
                f"the autoencoder got latents of shape {list(z_BLhw.shape)}; its latents have "
                f"{self.config.latent_channels} channels: do network and autoencoder belong together?"
            )
        return self._each(z_BLhw, self._decode)

    def forward(self, x_BCHW: Tensor, noise_BLhw: Tensor | None = None) -> Tensor:
        """Pictures through both halves: by a sample of the latents with noise, else by their means."""
        found = self.encode(x_BCHW)
        return self.decode(found.mode() if noise_BLhw is None else found.sample(noise_BLhw))

    def to_network(self, z_BLhw: Tensor) -> Tensor:
        """Latents as diffusion networks take them: ``(z - shift) * scale``."""
        return (z_BLhw - (self.config.shift_factor or 0.0)) * self.config.scaling_factor

    def from_network(self, z_BLhw: Tensor) -> Tensor:
        """The inverse of `to_network`."""
        return z_BLhw * (1.0 / self.config.scaling_factor) + (self.config.shift_factor or 0.0)

    def _each(self, x: Tensor, half: Callable[[Tensor], Tensor]) -> Tensor:
        if self.slices and x.shape[0] > 1:
            return paddle.concat([half(row) for row in x.split(x.shape[0], axis=0)])
        return half(x)

    def _encode(self, x_BCHW: Tensor) -> Tensor:
        tiles = self.tiles
        if tiles is not None and max(x_BCHW.shape[2:]) > tiles.pixels:
            return in_tiles(x_BCHW, self._moments, tiles.pixels, tiles.latents, tiles.overlap)
        return self._moments(x_BCHW)

    def _decode(self, z_BLhw: Tensor) -> Tensor:
        tiles = self.tiles
        if tiles is not None and max(z_BLhw.shape[2:]) > tiles.latents:
            return in_tiles(z_BLhw, self._picture, tiles.latents, tiles.pixels, tiles.overlap)
        return self._picture(z_BLhw)

    def _moments(self, x_BCHW: Tensor) -> Tensor:
        moments = self.encoder(cast(x_BCHW, self._own_dtype), self.recompute and self.training)
        return cast(moments if self.quant_conv is None else self.quant_conv(moments), self._own_dtype)

    def _picture(self, z_BLhw: Tensor) -> Tensor:
        z_BLhw = cast(z_BLhw, self._own_dtype)
        z_BLhw = z_BLhw if self.post_quant_conv is None else self.post_quant_conv(z_BLhw)
        return cast(self.decoder(z_BLhw, self.recompute and self.training), self._own_dtype)

    @property
    def _own_dtype(self) -> Any:
        """Of the parameters, and of what comes out: products may be narrower."""
        return self.encoder.conv_norm_out.weight.dtype
