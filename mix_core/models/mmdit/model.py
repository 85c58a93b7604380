"""SD3's transformer (MMDiT), which says the velocity of noisy latents.

Shapes: B batch, C channels, H and W rows and columns of the latents, h and w of their patches, S = h * w
tokens, M tokens of text, D model dim, p side of a patch. Esser et al., "Scaling Rectified Flow Transformers
for High-Resolution Image Synthesis", 2024.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from mix_core.errors import DataError
from mix_core.models.common.layers import Linear
from mix_core.models.diffusion.layers import TwoMaps, as_steps, sinusoids
from mix_core.models.diffusion.recompute import run
from mix_core.models.mmdit import NETWORK
from mix_core.models.mmdit.blocks import JointBlock
from mix_core.models.mmdit.config import MMDiTConfig
from mix_core.models.mmdit.modulation import Modulation, modulated
from mix_core.models.mmdit.positions import middle
from mix_core.ops.dtypes import cast

TIME_WIDTH = 256
"""Sines and cosines of a time step; fixed in the architecture."""


class PatchEmbed(nn.Layer):
    """A convolution whose stride is its kernel, as a product, and the token's position added."""

    def __init__(self, config: MMDiTConfig) -> None:
        super().__init__()
        self.config = config
        # pos_embed.proj.weight, published as (D, C, p, p)
        self.proj = Linear(config.in_channels * config.patch_size**2, config.width, True)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        dtype = self.proj.weight.dtype
        p = self.config.patch_size
        B, C, H, W = x_BCHW.shape
        patches = cast(x_BCHW, dtype).reshape([B, C, H // p, p, W // p, p]).transpose([0, 2, 4, 1, 3, 5])
        tokens_BSD = self.proj(patches.reshape([B, (H // p) * (W // p), C * p * p]))
        return cast(tokens_BSD, dtype) + cast(_positions(self.config, H // p, W // p), dtype)


@lru_cache(maxsize=8)
def _positions(config: MMDiTConfig, rows: int, columns: int) -> Tensor:
    """On the device (1, S, D); training repeats few sizes."""
    return paddle.to_tensor(middle(config, rows, columns)[None])


class TimeTextEmbed(nn.Layer):
    """The embeddings of the time step and of the pooled text, added."""

    def __init__(self, config: MMDiTConfig) -> None:
        super().__init__()
        self.timestep_embedder = TwoMaps(TIME_WIDTH, config.width)
        self.text_embedder = TwoMaps(config.pooled_projection_dim, config.width)

    def forward(self, steps_B: Tensor, pooled_BP: Tensor) -> Tensor:
        return self.timestep_embedder(sinusoids(steps_B, TIME_WIDTH)) + self.text_embedder(pooled_BP)


class SD3Transformer2DModel(nn.Layer):
    network = NETWORK
    zero_at_first = (
        "norm1.linear.weight",
        "norm1_context.linear.weight",
        "norm_out.linear.weight",
        "proj_out.weight",
    )

    def __init__(self, config: MMDiTConfig) -> None:
        super().__init__()
        self.config = config
        D, last = config.width, config.num_layers - 1
        self.pos_embed = PatchEmbed(config)
        self.time_text_embed = TimeTextEmbed(config)
        self.context_embedder = Linear(config.joint_attention_dim, D, True)
        self.transformer_blocks = nn.LayerList(
            [
                JointBlock(
                    D,
                    config.num_attention_heads,
                    last=i == last,
                    dual=i in config.dual_attention_layers,
                    norms=config.qk_norm is not None,
                )
                for i in range(config.num_layers)
            ]
        )
        self.norm_out = Modulation(D, 2)
        self.proj_out = Linear(D, config.patch_size**2 * config.outputs, True)
        self.recompute = False
        """Whether blocks are computed again going backward."""
        self.random = None
        """Set where adapters draw in training."""

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        timestep: Any,
    ) -> Tensor:
        """The velocity (B, C, H, W) of noisy latents of that shape; arguments as diffusers names them.

        encoder_hidden_states (B, M, joint_attention_dim), pooled_projections (B, pooled_projection_dim),
        timestep: one number or (B,), 1000 times sigma. Raises DataError.
        """
        self._check(hidden_states, encoder_hidden_states, pooled_projections)
        dtype = self.pos_embed.proj.weight.dtype
        steps_B = as_steps(timestep, hidden_states.shape[0])
        activated_BD = F.silu(self.time_text_embed(steps_B, pooled_projections))
        x_BSD = self.pos_embed(hidden_states)
        text_BMD = cast(self.context_embedder(cast(encoder_hidden_states, dtype)), dtype)
        again = self.recompute and self.training
        *blocks, last = self.transformer_blocks
        for block in blocks:
            x_BSD, text_BMD = run(block, again, x_BSD, text_BMD, activated_BD)
        x_BSD = run(last, again, x_BSD, text_BMD, activated_BD)
        scale, shift = self.norm_out(activated_BD)
        return self._picture(self.proj_out(modulated(x_BSD, shift, scale)), hidden_states.shape)

    def _picture(self, tokens: Tensor, shape: list[int]) -> Tensor:
        """Tokens (B, S, p * p * C) back to their places."""
        p, C = self.config.patch_size, self.config.outputs
        B, _, H, W = shape
        patches = tokens.reshape([B, H // p, W // p, p, p, C]).transpose([0, 5, 1, 3, 2, 4])
        return patches.reshape([B, C, H, W])

    def _check(self, x: Tensor, text: Tensor, pooled: Tensor) -> None:
        config = self.config
        p, C = config.patch_size, config.in_channels
        if x.ndim != 4 or x.shape[1] != C or x.shape[2] % p or x.shape[3] % p:
            raise DataError(
                f"the transformer got latents of shape {list(x.shape)}; expected {C} channels and sides that "
                f"are multiples of {p}"
            )
        B = x.shape[0]
        if text.ndim != 3 or text.shape[0] != B or text.shape[2] != config.joint_attention_dim:
            raise DataError(
                f"the transformer got text of shape {list(text.shape)}; expected ({B}, tokens, "
                f"{config.joint_attention_dim}): do network and text encoders belong together?"
            )
        if list(pooled.shape) != [B, config.pooled_projection_dim]:
            raise DataError(
                f"the transformer got pooled text of shape {list(pooled.shape)}; expected ({B}, "
                f"{config.pooled_projection_dim})"
            )
