"""The vision tower of Qwen2.5-VL: patches in, one decoder token for each cell out.

Shapes: P patches of all pictures, C cells, D tower width, N heads, H head dim, O decoder width.
"""

from __future__ import annotations

import numpy as np
import paddle
from paddle import Tensor, nn

from mix_core import ops
from mix_core.models.common.layers import GatedMLP, Linear, RMSNorm
from mix_core.models.common.recompute import recompute
from mix_core.models.qwen2_5_vl.config import VisionConfig
from mix_core.models.qwen2_5_vl.geometry import Grid, vision_plan

EPS = 1e-6
"""Of the tower's norms; fixed in the architecture, not in the file."""
THETA = 10000.0
"""Base of the tower's rotary frequencies; fixed in the architecture."""


class PatchEmbed(nn.Layer):
    """A convolution whose stride is its kernel, as a product: the processor hands out flattened patches."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        # visual.patch_embed.proj.weight, published as (D, channels, frames, patch, patch)
        self.proj = Linear(config.patch_width, config.hidden_size, bias=False)

    def forward(self, pixels_P: Tensor) -> Tensor:
        return self.proj(pixels_P)


class VisionAttention(nn.Layer):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.heads, self.head_dim = config.num_heads, config.head_dim
        self.qkv = Linear(config.hidden_size, 3 * config.hidden_size, bias=True)
        self.proj = Linear(config.hidden_size, config.hidden_size, bias=True)

    def forward(self, x_PD: Tensor, cu_seqlens: np.ndarray, tables: tuple[Tensor, Tensor]) -> Tensor:
        P, D = x_PD.shape
        q_PNH, k_PNH, v_PNH = self.qkv(x_PD).reshape([P, 3, self.heads, self.head_dim]).unbind(1)
        q_PNH, k_PNH = ops.rotary(q_PNH, k_PNH, *tables)
        out_PNH = ops.attention_packed(q_PNH, k_PNH, v_PNH, cu_seqlens, causal=False)
        return self.proj(out_PNH.reshape([P, D]))


class VisionBlock(nn.Layer):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.norm1 = RMSNorm(config.hidden_size, EPS)
        self.attn = VisionAttention(config)
        self.norm2 = RMSNorm(config.hidden_size, EPS)
        self.mlp = GatedMLP(config.hidden_size, config.intermediate_size, bias=True)

    def forward(self, x_PD: Tensor, cu_seqlens: np.ndarray, tables: tuple[Tensor, Tensor]) -> Tensor:
        x_PD = x_PD + self.attn(self.norm1(x_PD), cu_seqlens, tables)
        return x_PD + self.mlp(self.norm2(x_PD))


class PatchMerger(nn.Layer):
    """Norm, then the patches of a cell side by side through two linear maps."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.cell_width = config.hidden_size * config.spatial_merge_size**2
        self.ln_q = RMSNorm(config.hidden_size, EPS)
        # visual.merger.mlp.0 and .2; the gelu between them is .1
        self.mlp = nn.LayerDict(
            {
                "0": Linear(self.cell_width, self.cell_width, True),
                "2": Linear(self.cell_width, config.out_hidden_size, True),
            }
        )

    def forward(self, x_PD: Tensor) -> Tensor:
        cells = self.ln_q(x_PD).reshape([-1, self.cell_width])
        return self.mlp["2"](ops.gelu(self.mlp["0"](cells)))


class VisionTower(nn.Layer):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        self.blocks = nn.LayerList([VisionBlock(config) for _ in range(config.depth)])
        self.merger = PatchMerger(config)
        self.recompute = False

    def forward(self, pixels_P: Tensor, grids: tuple[Grid, ...]) -> Tensor:
        """pixels (P, patch width), their grids -> (C, O), in the processor's order of cells."""
        merge = self.config.spatial_merge_size
        plan = vision_plan(grids, merge, self.config.window_cells)
        x_PD = self.patch_embed(pixels_P)
        in_windows = False
        tables = {False: self._tables(plan.row_column_P2)}
        if not plan.windows_are_frames:
            cells = plan.row_column_P2.reshape(-1, merge * merge, 2)[plan.window_order_C]
            tables[True] = self._tables(cells.reshape(-1, 2))
        for i, block in enumerate(self.blocks):
            windowed = i not in self.config.fullatt_block_indexes and not plan.windows_are_frames
            if windowed != in_windows:
                x_PD = self._reorder(x_PD, plan.window_order_C if windowed else plan.frame_order_C)
                in_windows = windowed
            arguments = (x_PD, plan.cu_windows if windowed else plan.cu_frames, tables[windowed])
            x_PD = recompute(block, *arguments) if self.recompute and self.training else block(*arguments)
        merged = self.merger(x_PD)
        return paddle.gather(merged, paddle.to_tensor(plan.frame_order_C)) if in_windows else merged

    def _reorder(self, x_PD: Tensor, order_C: np.ndarray) -> Tensor:
        cells = x_PD.reshape([len(order_C), -1])
        return paddle.gather(cells, paddle.to_tensor(order_C)).reshape(x_PD.shape)

    def _tables(self, row_column_P2: np.ndarray) -> tuple[Tensor, Tensor]:
        cos, sin = ops.rotary_tables_2d(row_column_P2, self.config.head_dim, THETA)
        return paddle.to_tensor(cos[:, None]), paddle.to_tensor(sin[:, None])
