"""The vision tower of Qwen2.5-VL: patches in, one decoder token for each cell out.

Shapes: P patches of all pictures, C cells, D tower width, N heads, H head dim, O decoder width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import paddle
from paddle import Tensor, nn

from mix_core import ops
from mix_core.models.common.layers import GatedMLP, Linear, RMSNorm, residual
from mix_core.models.common.recompute import Run, run, run_block
from mix_core.models.qwen2_5_vl.config import VisionConfig
from mix_core.models.qwen2_5_vl.geometry import Grid, vision_plan
from mix_core.ops.dtypes import cast
from mix_core.ops.shapes import take_rows

EPS = 1e-6
"""Of the tower's norms; fixed in the architecture, not in the file."""
THETA = 10000.0
"""Base of the tower's rotary frequencies; fixed in the architecture."""


class PatchEmbed(nn.Layer):
    """A convolution whose stride is its kernel, as a product: the processor hands out flattened patches."""

    def __init__(self, patch_width: int, width: int) -> None:
        super().__init__()
        # visual.patch_embed.proj.weight, published as (D, channels, frames, patch, patch)
        self.proj = Linear(patch_width, width, bias=False)

    def forward(self, pixels_P: Tensor) -> Tensor:
        dtype = self.proj.weight.dtype
        return cast(self.proj(cast(pixels_P, dtype)), dtype)


class VisionAttention(nn.Layer):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, width // heads
        self.qkv = Linear(width, 3 * width, bias=True)
        self.proj = Linear(width, width, bias=True)

    def forward(self, x_PD: Tensor, cu_seqlens: np.ndarray, tables: tuple[Tensor, Tensor]) -> Tensor:
        P, D = x_PD.shape
        q_PNH, k_PNH, v_PNH = (
            part.reshape([P, self.heads, self.head_dim]) for part in self.qkv(x_PD).split(3, axis=1)
        )
        q_PNH, k_PNH = ops.rotary(q_PNH, k_PNH, *tables)
        out_PNH = ops.attention_packed(q_PNH, k_PNH, v_PNH, cu_seqlens, causal=False)
        return self.proj(out_PNH.reshape([P, D]))


class VisionBlock(nn.Layer):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.norm1 = RMSNorm(config.hidden_size, EPS)
        self.attn = VisionAttention(config.hidden_size, config.num_heads)
        self.norm2 = RMSNorm(config.hidden_size, EPS)
        self.mlp = GatedMLP(config.hidden_size, config.intermediate_size, bias=True)

    def forward(
        self, x_PD: Tensor, cu_seqlens: np.ndarray, tables: tuple[Tensor, Tensor], branch: Run = run
    ) -> Tensor:
        branch_PD = branch(self.attended, x_PD, cu_seqlens, tables)
        x_PD, normed_PD = self.norm2.after_residual(x_PD, branch_PD)
        return residual(x_PD, self.mlp(normed_PD))

    def attended(self, x_PD: Tensor, cu_seqlens: np.ndarray, tables: tuple[Tensor, Tensor]) -> Tensor:
        return self.attn(self.norm1(x_PD), cu_seqlens, tables)


class PatchMerger(nn.Layer):
    """Norm, then the patches of a cell side by side through two linear maps."""

    def __init__(self, norm: nn.Layer, cell_width: int, outputs: int) -> None:
        super().__init__()
        self.cell_width = cell_width
        self.ln_q = norm
        # visual.merger.mlp.0 and .2; the gelu between them is .1
        self.mlp = nn.LayerDict(
            {
                "0": Linear(cell_width, cell_width, True),
                "2": Linear(cell_width, outputs, True),
            }
        )

    def forward(self, x_PD: Tensor) -> Tensor:
        cells = self.ln_q(x_PD).reshape([-1, self.cell_width])
        return self.mlp["2"](ops.gelu(self.mlp["0"](cells)))


class VisionTower(nn.Layer):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config.patch_width, config.hidden_size)
        self.blocks = nn.LayerList([VisionBlock(config) for _ in range(config.depth)])
        norm = RMSNorm(config.hidden_size, EPS)
        cell_width = config.hidden_size * config.spatial_merge_size**2
        self.merger = PatchMerger(norm, cell_width, config.out_hidden_size)
        self.recompute = False

    def forward(self, x: Tensor, grids: tuple[Grid, ...], start: int = 0, stop: int | None = None) -> Tensor:
        """pixels (P, patch width), their grids -> (C, O), in the processor's order of cells.

        Of a part of the way: `x` is what block ``start - 1`` gave, and what block ``stop - 1`` gives comes
        back (P, D), both in that block's order.
        """
        config = self.config
        layout = _layout(grids, config.spatial_merge_size, config.window_cells, config.head_dim)
        x_PD = self.patch_embed(x) if start == 0 else x
        order = self._order(layout, start - 1)
        for i in range(start, len(self.blocks) if stop is None else stop):
            wanted, block = self._order(layout, i), self.blocks[i]
            if wanted is not order:
                x_PD, order = _reorder(x_PD, wanted.from_other_C), wanted
            x_PD = run_block(self, i, block, x_PD, order.cu_seqlens, order.tables)
        if stop is not None:
            return x_PD
        merged_CO = self.merger(x_PD)
        if order is layout.by_frame:
            return merged_CO
        return take_rows(merged_CO, layout.by_frame.from_other_C)

    def _order(self, layout: _Layout, block: int) -> _Order:
        """The order in which a block works; before the first one patches stand frame by frame."""
        whole = block < 0 or block in self.config.fullatt_block_indexes
        return layout.by_frame if whole else layout.by_window


@dataclass(frozen=True)
class _Order:
    """The patches in one of two orders, frame by frame or window by window."""

    cu_seqlens: np.ndarray
    tables: tuple[Tensor, Tensor]
    """cos and sin (P, 1, H)."""
    from_other_C: Tensor | None
    """Place in the other order of each cell; None where there is only one."""


@dataclass(frozen=True)
class _Layout:
    by_frame: _Order
    by_window: _Order
    """The same object where every window is a frame."""


@lru_cache(maxsize=8)
def _layout(grids: tuple[Grid, ...], merge: int, window_cells: int, head_dim: int) -> _Layout:
    """What a list of grids asks of the tower, on the device; training repeats few of them."""
    plan = vision_plan(grids, merge, window_cells)
    frame_tables = rotary_tables(plan.row_column_P2, head_dim)
    if plan.windows_are_frames:
        only = _Order(plan.cu_frames, frame_tables, None)
        return _Layout(only, only)
    cells = plan.row_column_P2.reshape(-1, merge * merge, 2)[plan.window_order_C]
    window_tables = rotary_tables(cells.reshape(-1, 2), head_dim)
    return _Layout(
        by_frame=_Order(plan.cu_frames, frame_tables, paddle.to_tensor(plan.frame_order_C)),
        by_window=_Order(plan.cu_windows, window_tables, paddle.to_tensor(plan.window_order_C)),
    )


def rotary_tables(row_column_P2: np.ndarray, head_dim: int) -> tuple[Tensor, Tensor]:
    """cos and sin (P, 1, H) on the device."""
    cos, sin = ops.rotary_tables_2d(row_column_P2, head_dim, THETA)
    return paddle.to_tensor(cos[:, None]), paddle.to_tensor(sin[:, None])


def _reorder(x_PD: Tensor, order_C: Tensor) -> Tensor:
    """Patches with their cells in another order; the patches of a cell stay together."""
    cells = x_PD.reshape([order_C.shape[0], -1])
    return take_rows(cells, order_C).reshape(x_PD.shape)
