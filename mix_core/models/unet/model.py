"""The U-Net that SD 1.5 and SDXL denoise latents with.

Shapes: B batch, C channels, H and W rows and columns of the latents, M tokens of text, E width of the time
step's embedding. Ronneberger et al., "U-Net", 2015; Rombach et al., "High-Resolution Image Synthesis with
Latent Diffusion Models", 2022; Podell et al., "SDXL", 2023.
"""

from __future__ import annotations

from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from mix_core.errors import DataError
from mix_core.models.diffusion.attention import SpatialTransformer
from mix_core.models.diffusion.layers import Conv2D, GroupNorm, TwoMaps, as_steps, sinusoids
from mix_core.models.diffusion.recompute import run
from mix_core.models.diffusion.resnet import Downsample, ResNetBlock, Upsample
from mix_core.models.unet import NETWORK
from mix_core.models.unet.config import ATTENDING, UNetConfig
from mix_core.ops.dtypes import cast


class Level(nn.Layer):
    """Residual blocks of one level, each with transformer blocks after it where the level attends."""

    def __init__(self, config: UNetConfig, level: int, widths: list[tuple[int, int]], attends: bool) -> None:
        """`widths`: channels into and out of each residual block."""
        super().__init__()
        groups, eps = config.norm_num_groups, config.norm_eps
        self.resnets = nn.LayerList(
            [ResNetBlock(i, o, groups, eps, config.embedding_width) for i, o in widths]
        )
        how = (config.heads[level], config.depths[level], config.cross_attention_dim, groups)
        self.attentions = nn.LayerList([SpatialTransformer(o, *how) for _, o in widths] if attends else [])
        self.recompute = False

    def step(self, i: int, x_BCHW: Tensor, activated_BE: Tensor, text_BMD: Tensor) -> Tensor:
        """Through residual block i and what follows it."""
        again = self.recompute and self.training
        x_BCHW = run(self.resnets[i], again, x_BCHW, activated_BE)
        if len(self.attentions):
            x_BCHW = run(self.attentions[i], again, x_BCHW, text_BMD)
        return x_BCHW


class DownLevel(Level):
    def __init__(self, config: UNetConfig, level: int) -> None:
        channels = config.block_out_channels
        width, before = channels[level], channels[max(level - 1, 0)]
        widths = [(before if i == 0 else width, width) for i in range(config.layers_per_block)]
        super().__init__(config, level, widths, config.down_block_types[level] in ATTENDING)
        last = level == len(channels) - 1
        self.downsamplers = nn.LayerList([] if last else [Downsample(width, one_sided=False)])

    def forward(self, x_BCHW: Tensor, activated_BE: Tensor, text_BMD: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The map for the next level, and all maps that the way out takes up again."""
        kept = []
        for i in range(len(self.resnets)):
            x_BCHW = self.step(i, x_BCHW, activated_BE, text_BMD)
            kept.append(x_BCHW)
        for downsample in self.downsamplers:
            x_BCHW = downsample(x_BCHW)
            kept.append(x_BCHW)
        return x_BCHW, kept


class MidLevel(nn.Layer):
    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        width, groups = config.block_out_channels[-1], config.norm_num_groups
        how = (config.heads[-1], config.depths[-1], config.cross_attention_dim, groups)
        self.attentions = nn.LayerList([SpatialTransformer(width, *how)])
        self.resnets = nn.LayerList(
            [ResNetBlock(width, width, groups, config.norm_eps, config.embedding_width) for _ in range(2)]
        )
        self.recompute = False

    def forward(self, x_BCHW: Tensor, activated_BE: Tensor, text_BMD: Tensor) -> Tensor:
        again = self.recompute and self.training
        x_BCHW = run(self.resnets[0], again, x_BCHW, activated_BE)
        x_BCHW = run(self.attentions[0], again, x_BCHW, text_BMD)
        return run(self.resnets[1], again, x_BCHW, activated_BE)


class UpLevel(Level):
    def __init__(self, config: UNetConfig, place: int) -> None:
        """`place`: counted from the innermost level."""
        channels = config.block_out_channels
        level = len(channels) - 1 - place
        width, before, after = channels[level], channels[min(level + 1, len(channels) - 1)], level - 1
        count = config.layers_per_block + 1
        # what the way in left there, the last first: its own width, at the end that of the level outside
        skips = [width] * (count - 1) + [channels[max(after, 0)]]
        widths = [((before if i == 0 else width) + skip, width) for i, skip in enumerate(skips)]
        super().__init__(config, level, widths, config.up_block_types[place] in ATTENDING)
        self.upsamplers = nn.LayerList([] if level == 0 else [Upsample(width)])

    def forward(self, x_BCHW: Tensor, kept: list[Tensor], activated_BE: Tensor, text_BMD: Tensor) -> Tensor:
        """Takes its maps from the end of `kept`."""
        for i in range(len(self.resnets)):
            x_BCHW = paddle.concat([x_BCHW, kept.pop()], axis=1)
            x_BCHW = self.step(i, x_BCHW, activated_BE, text_BMD)
        for upsample in self.upsamplers:
            # the way in rounds odd sides up, so twice the map may be one too many
            x_BCHW = upsample(x_BCHW, (kept[-1].shape[2], kept[-1].shape[3]))
        return x_BCHW


class UNet2DConditionModel(nn.Layer):
    network = NETWORK
    zero_at_first = (".conv2.weight", ".proj_out.weight", "conv_out.weight")

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        channels, E = config.block_out_channels, config.embedding_width
        self.conv_in = Conv2D(config.in_channels, channels[0])
        self.time_embedding = TwoMaps(channels[0], E)
        if config.addition_embed_type is None:
            self.add_embedding = None
        else:
            self.add_embedding = TwoMaps(config.projection_class_embeddings_input_dim or 0, E)
        levels = range(len(channels))
        self.down_blocks = nn.LayerList([DownLevel(config, level) for level in levels])
        self.mid_block = MidLevel(config)
        self.up_blocks = nn.LayerList([UpLevel(config, place) for place in levels])
        self.conv_norm_out = GroupNorm(config.norm_num_groups, channels[0], config.norm_eps)
        self.conv_out = Conv2D(channels[0], config.out_channels)
        self.random = None
        """Set where adapters draw in training."""

    @property
    def recompute(self) -> bool:
        """Whether residual and transformer blocks are computed again going backward."""
        return bool(self.mid_block.recompute)

    @recompute.setter
    def recompute(self, value: bool) -> None:
        for block in (*self.down_blocks, self.mid_block, *self.up_blocks):
            block.recompute = value

    def forward(
        self,
        sample: Tensor,
        timestep: Any,
        encoder_hidden_states: Tensor,
        text_embeds: Tensor | None = None,
        time_ids: Tensor | None = None,
    ) -> Tensor:
        """What the network says of noisy latents (noise, velocity...), in their shape.

        sample (B, C, H, W); timestep: one number or (B,); encoder_hidden_states (B, M, cross_attention_dim).
        For SDXL also text_embeds (B, pooled), the pooled text, and time_ids (B, 6): the original height and
        width, top and left of the crop, target height and width, in pixels. Raises DataError.
        """
        self._check(sample, encoder_hidden_states, text_embeds, time_ids)
        activated_BE = F.silu(self._embedding(sample.shape[0], timestep, text_embeds, time_ids))
        dtype = self.conv_norm_out.weight.dtype
        x_BCHW = cast(self.conv_in(cast(sample, self.conv_in.weight.dtype)), dtype)
        text_BMD = cast(encoder_hidden_states, dtype)
        kept = [x_BCHW]
        for down in self.down_blocks:
            x_BCHW, maps = down(x_BCHW, activated_BE, text_BMD)
            kept += maps
        x_BCHW = self.mid_block(x_BCHW, activated_BE, text_BMD)
        for up in self.up_blocks:
            x_BCHW = up(x_BCHW, kept, activated_BE, text_BMD)
        return self.conv_out(self.conv_norm_out(x_BCHW, silu=True))

    def _embedding(self, batch: int, timestep: Any, pooled: Tensor | None, sizes: Tensor | None) -> Tensor:
        config = self.config
        how = {"flip": config.flip_sin_to_cos, "shift": float(config.freq_shift)}
        steps_B = as_steps(timestep, batch)
        embedding_BE = self.time_embedding(sinusoids(steps_B, config.block_out_channels[0], **how))
        if self.add_embedding is None:
            return embedding_BE
        sizes_BF = sinusoids(sizes, config.addition_time_embed_dim or 0, **how).reshape([batch, -1])
        pooled = cast(pooled, paddle.float32)
        return embedding_BE + self.add_embedding(paddle.concat([pooled, sizes_BF], axis=-1))

    def _check(self, sample: Tensor, text: Tensor, pooled: Tensor | None, sizes: Tensor | None) -> None:
        config, B = self.config, sample.shape[0]
        if sample.ndim != 4 or sample.shape[1] != config.in_channels:
            raise DataError(
                f"the U-Net got latents of shape {list(sample.shape)}; it takes {config.in_channels} channels"
            )
        if text.ndim != 3 or text.shape[0] != B or text.shape[2] != config.cross_attention_dim:
            raise DataError(
                f"the U-Net got text of shape {list(text.shape)}; expected ({B}, tokens, "
                f"{config.cross_attention_dim}): do network and text encoder belong together?"
            )
        if config.addition_embed_type is None:
            return
        for name, tensor, width in (("text_embeds", pooled, config.pooled_width), ("time_ids", sizes, 6)):
            if tensor is None or list(tensor.shape) != [B, width]:
                found = None if tensor is None else list(tensor.shape)
                raise DataError(f"the U-Net got {name} of shape {found}; expected ({B}, {width})")
