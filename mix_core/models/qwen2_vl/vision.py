"""The vision tower of Qwen2-VL: patches in, one decoder token for each cell out.

Unlike Qwen2.5-VL: layer norms, a plain feed-forward with quick gelu, and every block attends over the
whole frame. Patches, attention and merger are the same.

Shapes: P patches of all pictures, C cells, D tower width, O decoder width.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from paddle import Tensor, nn

from mix_core.models.common.layers import MLP, LayerNorm, residual
from mix_core.models.common.recompute import Run, run, run_block
from mix_core.models.qwen2_5_vl.geometry import Grid, frame_plan
from mix_core.models.qwen2_5_vl.vision import EPS, PatchEmbed, PatchMerger, VisionAttention, rotary_tables
from mix_core.models.qwen2_vl.config import VisionConfig


class VisionBlock(nn.Layer):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.norm1 = LayerNorm(config.embed_dim, EPS)
        self.attn = VisionAttention(config.embed_dim, config.num_heads)
        self.norm2 = LayerNorm(config.embed_dim, EPS)
        self.mlp = MLP(config.embed_dim, config.inner_dim, "quick")

    def forward(
        self, x_PD: Tensor, cu_seqlens: np.ndarray, tables: tuple[Tensor, Tensor], branch: Run = run
    ) -> Tensor:
        x_PD = residual(x_PD, branch(self.attended, x_PD, cu_seqlens, tables))
        return residual(x_PD, self.mlp(self.norm2(x_PD)))

    def attended(self, x_PD: Tensor, cu_seqlens: np.ndarray, tables: tuple[Tensor, Tensor]) -> Tensor:
        return self.attn(self.norm1(x_PD), cu_seqlens, tables)


class VisionTower(nn.Layer):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config.patch_width, config.embed_dim)
        self.blocks = nn.LayerList([VisionBlock(config) for _ in range(config.depth)])
        norm = LayerNorm(config.embed_dim, EPS)
        self.merger = PatchMerger(norm, config.embed_dim * config.spatial_merge_size**2, config.hidden_size)
        self.recompute = False

    def forward(self, x: Tensor, grids: tuple[Grid, ...], start: int = 0, stop: int | None = None) -> Tensor:
        """pixels (P, patch width), their grids -> (C, O), in the processor's order of cells.

        Of a part of the way: `x` is what block ``start - 1`` gave, and what block ``stop - 1`` gives comes
        back (P, D).
        """
        cu_seqlens, tables = _frames(grids, self.config.spatial_merge_size, self.config.head_dim)
        x_PD = self.patch_embed(x) if start == 0 else x
        for i in range(len(self.blocks))[start:stop]:
            x_PD = run_block(self, i, self.blocks[i], x_PD, cu_seqlens, tables)
        return self.merger(x_PD) if stop is None else x_PD


@lru_cache(maxsize=8)
def _frames(grids: tuple[Grid, ...], merge: int, head_dim: int) -> tuple[np.ndarray, tuple[Tensor, Tensor]]:
    """Ends of the frames, and rotary tables on the device; training repeats few lists of grids."""
    plan = frame_plan(grids, merge)
    return plan.cu_frames, rotary_tables(plan.row_column_P2, head_dim)
