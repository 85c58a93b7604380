"""The vision tower of Qwen-VL: a ViT, and one layer of cross-attention from learned queries to its patches.

Shapes: n pictures, P patches of one picture, T = n * P, Q queries of one picture, D tower width, O decoder
width, N heads, H head dim.
"""

from __future__ import annotations

from functools import lru_cache

import paddle
from paddle import Tensor, nn
from paddle.nn.initializer import Constant

from mix_core import ops
from mix_core.models.common.layers import LayerNorm, Linear, residual
from mix_core.models.common.recompute import Run, run, run_block
from mix_core.models.qwen_vl.config import HEAD_WIDTH, TABLE_SIDE, VisionConfig
from mix_core.models.qwen_vl.geometry import resizing, sincos_table
from mix_core.ops.dtypes import cast, widened

EPS = 1e-6
"""Of the tower's norms; fixed in the architecture, not in the file."""


class VisionAttention(nn.Layer):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.heads, self.head_dim = config.heads, config.head_dim
        # rows of the published matrix stand head by head, each head's q, k and v together
        self.in_proj = Linear(config.width, 3 * config.width, bias=True)
        self.out_proj = Linear(config.width, config.width, bias=True)

    def forward(self, x_TD: Tensor, pictures: int) -> Tensor:
        N, H = self.heads, self.head_dim
        by_head = self.in_proj(x_TD).reshape([-1, N, 3, H]).transpose([2, 0, 1, 3])
        q, k, v = (part.reshape([pictures, -1, N, H]) for part in by_head.split(3))
        out = ops.attention(q, k, v, causal=False)
        return self.out_proj(out.reshape([-1, N * H]))


class VisionMLP(nn.Layer):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.c_fc = Linear(config.width, config.mlp_width, bias=True)
        self.c_proj = Linear(config.mlp_width, config.width, bias=True)

    def forward(self, x_TD: Tensor) -> Tensor:
        return self.c_proj(ops.gelu(self.c_fc(x_TD)))


class VisionBlock(nn.Layer):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(config.width, EPS)
        self.attn = VisionAttention(config)
        self.ln_2 = LayerNorm(config.width, EPS)
        self.mlp = VisionMLP(config)

    def forward(self, x_TD: Tensor, pictures: int, branch: Run = run) -> Tensor:
        x_TD = residual(x_TD, branch(self.attended, x_TD, pictures))
        return residual(x_TD, self.mlp(self.ln_2(x_TD)))

    def attended(self, x_TD: Tensor, pictures: int) -> Tensor:
        return self.attn(self.ln_1(x_TD), pictures)


class VisionBlocks(nn.Layer):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.resblocks = nn.LayerList([VisionBlock(config) for _ in range(config.layers)])
        self.recompute = False

    def forward(self, x_TD: Tensor, pictures: int, start: int = 0, stop: int | None = None) -> Tensor:
        for i in range(len(self.resblocks))[start:stop]:
            x_TD = run_block(self, i, self.resblocks[i], x_TD, pictures)
        return x_TD


class CrossAttention(nn.Layer):
    """Attention with a map of its own for queries, keys and values."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # published as in_proj_weight and in_proj_bias, the three below each other
        self.q_proj = Linear(width, width, bias=True)
        self.k_proj = Linear(width, width, bias=True)
        self.v_proj = Linear(width, width, bias=True)
        self.out_proj = Linear(width, width, bias=True)

    def forward(self, queries_QO: Tensor, keys_TO: Tensor, values_TO: Tensor, pictures: int) -> Tensor:
        """Every picture is asked the same queries -> (n * Q, O)."""
        Q, width = queries_QO.shape
        heads = [-1, width // HEAD_WIDTH, HEAD_WIDTH]
        q = self.q_proj(queries_QO).reshape([1, *heads]).expand([pictures, Q, *heads[1:]])
        k, v = (x.reshape([pictures, *heads]) for x in (self.k_proj(keys_TO), self.v_proj(values_TO)))
        return self.out_proj(ops.attention(q, k, v, causal=False).reshape([-1, width]))


class Resampler(nn.Layer):
    """A picture's patches to a fixed number of tokens."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.grids = config.query_grid, config.grid
        width = config.output_dim
        # in the file, and never learned
        self.register_buffer("pos_embed", paddle.to_tensor(sincos_table(config.query_grid, width)))
        self.query = self.create_parameter([config.n_queries, width], default_initializer=Constant(0.0))
        self.kv_proj = Linear(config.width, width, bias=False) if config.width != width else None
        self.attn = CrossAttention(width)
        self.ln_q = LayerNorm(width, EPS)
        self.ln_kv = LayerNorm(width, EPS)

    def forward(self, x_TD: Tensor, pictures: int) -> Tensor:
        """(T, D) -> (n * Q, O)."""
        x_TO = self.ln_kv(x_TD if self.kv_proj is None else self.kv_proj(x_TD))
        keys_TO = with_positions(x_TO, resized(self.pos_embed, *self.grids), pictures)
        queries_QO = self.ln_q(self.query)
        return self.attn(queries_QO + cast(self.pos_embed, queries_QO.dtype), keys_TO, x_TO, pictures)


class VisionTower(nn.Layer):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        D, width = config.width, config.output_dim
        # conv1.weight is published as (D, 3, patch, patch); its stride is its kernel
        self.conv1 = Linear(3 * config.patch_size**2, D, bias=False)
        zeros = Constant(0.0)
        self.positional_embedding = self.create_parameter([TABLE_SIDE**2, D], default_initializer=zeros)
        self.ln_pre = LayerNorm(D, EPS)
        self.transformer = VisionBlocks(config)
        self.attn_pool = Resampler(config)
        self.ln_post = LayerNorm(width, EPS)
        # published as (in, out), and used so
        self.proj = self.create_parameter([width, width], default_initializer=zeros)

    def forward(self, x: Tensor, pictures: int, start: int = 0, stop: int | None = None) -> Tensor:
        """Flattened patches (T, 3 * patch^2) of pictures in order, row by row -> their tokens (n * Q, O).

        Of a part of the way: `x` is what block ``start - 1`` gave, and what block ``stop - 1`` gives comes
        back (T, D).
        """
        x_TD = self._embedded(x, pictures) if start == 0 else x
        x_TD = self.transformer(x_TD, pictures, start, stop)
        if stop is not None:
            return x_TD
        return ops.linear(self.ln_post(self.attn_pool(x_TD, pictures)), self.proj)

    def _embedded(self, patches: Tensor, pictures: int) -> Tensor:
        dtype = self.conv1.weight.dtype
        x_TD = cast(self.conv1(cast(patches, dtype)), dtype)
        table_PD = resized(self.positional_embedding, TABLE_SIDE, self.config.grid)
        return self.ln_pre(with_positions(x_TD, table_PD, pictures))


def with_positions(x_TD: Tensor, table_PD: Tensor, pictures: int) -> Tensor:
    """The same table added to each picture's patches."""
    by_picture = x_TD.reshape([pictures, *table_PD.shape]) + cast(table_PD, x_TD.dtype)
    return by_picture.reshape(x_TD.shape)


def resized(table: Tensor, source: int, target: int) -> Tensor:
    """A square grid of positions (source^2, D) on a grid of another size (target^2, D), in float32."""
    matrix = _resizing(source, target)
    return table if matrix is None else paddle.matmul(matrix, widened(table))


@lru_cache(maxsize=8)
def _resizing(source: int, target: int) -> Tensor | None:
    matrix = resizing(source, target)
    return None if matrix is None else paddle.to_tensor(matrix)
