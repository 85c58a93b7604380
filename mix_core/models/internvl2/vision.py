"""InternViT, the vision tower of InternVL2: tiles in, a vector for each patch out.

Shapes: N tiles, G patches on a side, P = G * G patches, T = P + 1 with the class token, D tower width,
A heads, H head dim, k patches on a side of a token.
Chen et al., "InternVL: Scaling up Vision Foundation Models", 2023 (arXiv 2312.14238).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.nn.initializer import Constant

from mix_core import ops
from mix_core.models.common.geometry import bicubic_matrix, patches_of
from mix_core.models.common.layers import MLP, LayerNorm, Linear, RMSNorm, residual
from mix_core.models.common.random import SampleRandom
from mix_core.models.common.recompute import Run, run, run_block
from mix_core.models.internvl2.config import VisionConfig
from mix_core.ops.dtypes import cast, widened
from mix_core.ops.philox import philox4x32, uniform

_FIRST_DRAW = 1 << 16
"""Number of the tower's first layer for random draws; the decoder's layers count from 0."""

Draws = Sequence[np.ndarray | None]
"""For each layer the factors of its two branches in each tile (2, N), None where nothing is dropped."""


def pixel_shuffle(x_NPD: Tensor, k: int, version: str) -> Tensor:
    """Each k x k patches side by side -> (N, P / k^2, k * k * D); "v1" counts the results by columns."""
    N, P, D = x_NPD.shape
    g = round(P**0.5) // k
    split = x_NPD.reshape([N, g, k, g, k, D])
    order = [0, 1, 3, 2, 4, 5] if version == "v2" else [0, 3, 1, 2, 4, 5]
    return split.transpose(order).reshape([N, g * g, k * k * D])


def stochastic_depth(
    random: SampleRandom, rates: Sequence[float], sample_N: np.ndarray
) -> list[np.ndarray | None]:
    """Draw which branches are left out: 0 with the layer's rate, else 1 / (1 - rate).

    `sample_N`: place of each tile's sample in the batch. A draw depends on the sample, the tile's place in
    it and the layer (Huang et al., "Deep Networks with Stochastic Depth", 2016).
    """
    counters_N4 = np.zeros((len(sample_N), 4), np.uint64)
    for sample in np.unique(sample_N):
        of_sample = sample_N == sample
        counters_N4[of_sample, 0] = np.arange(of_sample.sum())
    draws: list[np.ndarray | None] = []
    for layer, rate in enumerate(rates):
        if rate == 0:
            draws.append(None)
            continue
        words_N4 = philox4x32(counters_N4, random.keys(_FIRST_DRAW + layer)[sample_N])
        draw_2N = uniform(words_N4[:, :2]).T
        kept_2N = draw_2N >= np.float32(rate)
        draws.append(kept_2N.astype(np.float32) / np.float32(1 - rate))
    return draws


def _norm(config: VisionConfig) -> nn.Layer:
    kind = LayerNorm if config.norm_type == "layer_norm" else RMSNorm
    return kind(config.hidden_size, config.layer_norm_eps)


class Embeddings(nn.Layer):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        D = config.hidden_size
        self.grid = config.image_size // config.patch_size
        self.class_embedding = self.create_parameter([1, 1, D], default_initializer=Constant(0.0))
        # a convolution whose stride is its kernel; published as (D, channels, patch, patch)
        self.patch_embedding = Linear(config.patch_width, D, bias=True)
        shape = [1, self.grid**2 + 1, D]
        self.position_embedding = self.create_parameter(shape, default_initializer=Constant(0.0))

    def forward(self, patches_NPW: Tensor) -> Tensor:
        """Flattened patches (N, P, W) -> (N, T, D)."""
        N, P, _ = patches_NPW.shape
        dtype = self.patch_embedding.weight.dtype
        x_NPD = cast(self.patch_embedding(cast(patches_NPW, dtype)), dtype)
        first = self.class_embedding.expand([N, 1, x_NPD.shape[2]])
        return paddle.concat([first, x_NPD], axis=1) + self.positions(round(P**0.5))

    def positions(self, grid: int) -> Tensor:
        """The learned positions (1, T, D), those of the patches resized to `grid` on a side."""
        if grid == self.grid:
            return self.position_embedding
        learned, D = self.position_embedding, self.position_embedding.shape[2]
        rows = paddle.to_tensor(bicubic_matrix(self.grid, grid).astype(np.float32))
        table = widened(learned)[0, 1:]
        for _ in range(2):  # rows, then columns: each product brings the other axis to the front
            resized = paddle.matmul(rows, table.reshape([self.grid, -1]))
            table = resized.reshape([grid, -1, D]).transpose([1, 0, 2])
        patches = cast(table.reshape([1, grid * grid, D]), learned.dtype)
        return paddle.concat([learned[:, :1], patches], axis=1)


class Attention(nn.Layer):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        D = config.hidden_size
        self.heads, self.head_dim = config.num_attention_heads, config.head_dim
        self.qkv = Linear(D, 3 * D, config.qkv_bias)
        self.proj = Linear(D, D, bias=True)
        self.q_norm = RMSNorm(D, config.layer_norm_eps) if config.qk_normalization else None
        self.k_norm = RMSNorm(D, config.layer_norm_eps) if config.qk_normalization else None

    def forward(self, x_NTD: Tensor) -> Tensor:
        N, T, D = x_NTD.shape
        q, k, v = self.qkv(x_NTD).split(3, axis=-1)
        if self.q_norm is not None:
            q, k = cast(self.q_norm(q), v.dtype), cast(self.k_norm(k), v.dtype)
        q_NTAH, k_NTAH, v_NTAH = (part.reshape([N, T, self.heads, self.head_dim]) for part in (q, k, v))
        return self.proj(ops.attention(q_NTAH, k_NTAH, v_NTAH, causal=False).reshape([N, T, D]))


class Block(nn.Layer):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.attn, self.mlp = Attention(config), MLP(config.hidden_size, config.intermediate_size)
        self.norm1, self.norm2 = _norm(config), _norm(config)
        scale = Constant(config.initializer_factor)
        self.ls1 = self.create_parameter([config.hidden_size], default_initializer=scale)
        self.ls2 = self.create_parameter([config.hidden_size], default_initializer=scale)

    def forward(self, x_NTD: Tensor, factors_2N: np.ndarray | None = None, branch: Run = run) -> Tensor:
        first, second = (None, None) if factors_2N is None else factors_2N
        x_NTD = _add(x_NTD, branch(self.attended, x_NTD), self.ls1, first)
        return _add(x_NTD, self.mlp(self.norm2(x_NTD)), self.ls2, second)

    def attended(self, x_NTD: Tensor) -> Tensor:
        return self.attn(self.norm1(x_NTD))


def _add(x_NTD: Tensor, branch_NTD: Tensor, scale_D: Tensor, factor_N: np.ndarray | None) -> Tensor:
    branch_NTD = cast(branch_NTD, x_NTD.dtype) * scale_D
    if factor_N is not None:
        branch_NTD = branch_NTD * cast(paddle.to_tensor(factor_N.reshape(-1, 1, 1)), x_NTD.dtype)
    return residual(x_NTD, branch_NTD)


class Encoder(nn.Layer):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layers = nn.LayerList([Block(config) for _ in range(config.num_hidden_layers)])
        self.recompute = False

    def forward(self, x_NTD: Tensor, layers: range, draws: Draws | None) -> Tensor:
        """The hidden state after these layers."""
        for i in layers:
            x_NTD = run_block(self, i, self.layers[i], x_NTD, None if draws is None else draws[i])
        return x_NTD


class VisionModel(nn.Layer):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)

    @property
    def drop_rates(self) -> list[float]:
        """Stochastic depth of each layer, growing evenly from 0."""
        config = self.config
        return [float(rate) for rate in np.linspace(0, config.drop_path_rate, config.num_hidden_layers)]

    def forward(
        self,
        x: np.ndarray | Tensor,
        select_layer: int,
        draws: Draws | None = None,
        start: int = 0,
        stop: int | None = None,
    ) -> Tensor:
        """Tiles -> the patches' vectors (N, P, D) after layer `select_layer`, without the class token's.

        `select_layer` counts as an index into the states before the first layer and after each. Of a part of
        the way: `x` is what came out of layer ``start - 1``, and what comes out of layer ``stop - 1`` is
        returned (N, T, D).
        """
        layers = select_layer % (self.config.num_hidden_layers + 1)
        if start == 0:
            x = self.embeddings(paddle.to_tensor(patches_of(x, self.config.patch_size)))
        x_NTD = self.encoder(x, range(start, layers if stop is None else min(stop, layers)), draws)
        return x_NTD[:, 1:] if stop is None else x_NTD
