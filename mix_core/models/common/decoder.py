"""A causal decoder with grouped-query attention and rotary positions: the text half of the models.

Shapes: B rows, T tokens of all rows, R chosen ones, C cache slots, D model dim, N query heads, K key/value
heads, H head dim.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn

from mix_core import ops
from mix_core.models.common.cache import KVCache
from mix_core.models.common.layers import Embedding, GatedMLP, Linear, RMSNorm, residual, weights_and_biases
from mix_core.models.common.random import SampleRandom
from mix_core.models.common.recompute import asked_of, recompute
from mix_core.ops.decode_layers import LayerWeights
from mix_core.ops.dtypes import cast
from mix_core.ops.shapes import reshape, take_rows


@dataclass(frozen=True, kw_only=True)
class DecoderShape:
    """What a family's configuration says of its decoder."""

    vocab_size: int
    hidden_size: int
    """D, the width of a token's vector."""
    intermediate_size: int
    """Width of the gated feed-forward."""
    layers: int
    heads: int
    """N query heads."""
    kv_heads: int
    """K heads of keys and values; K divides N."""
    head_dim: int
    eps: float
    """Of all norms."""
    qkv_bias: bool
    """Whether the maps to q, k and v have biases; no other map has."""
    attention_dropout: float
    """Share of attention weights dropped in training."""
    first_head: int = 0
    """Number of the first query head in the model, where a device has some of them."""

    @classmethod
    def of(cls, text: Any, *, qkv_bias: bool) -> DecoderShape:
        """The shape in a configuration whose fields bear transformers' names."""
        same = ("vocab_size", "hidden_size", "intermediate_size", "head_dim", "attention_dropout")
        return cls(
            **{name: getattr(text, name) for name in same},
            layers=text.num_hidden_layers,
            heads=text.num_attention_heads,
            kv_heads=text.num_key_value_heads,
            eps=text.rms_norm_eps,
            qkv_bias=qkv_bias,
        )


@dataclass(frozen=True, kw_only=True)
class Positions:
    """Where the tokens of one call stand; the same for all layers.

    Padding stands on the right, where causal order hides it from every token.
    """

    rows: int
    """B: the tokens are those of B rows of equal length, row after row."""
    cos_T1H: Tensor
    sin_T1H: Tensor
    cu_seqlens: np.ndarray | None = None
    """Ends of packed segments; the batch is then one row."""
    random: SampleRandom | None = None
    """Draws for attention dropout, where the model has any."""
    decoding: bool = False
    """Whether the call is one new token a row, over the cache."""
    query_scale_T11: Tensor | None = None
    """Factors of the queries, float32, in families that scale them with their position."""


class SelfAttention(nn.Layer):
    def __init__(self, shape: DecoderShape, index: int) -> None:
        super().__init__()
        self.shape = shape
        self.index = index
        self.q_proj = Linear(shape.hidden_size, shape.heads * shape.head_dim, shape.qkv_bias)
        self.k_proj = Linear(shape.hidden_size, shape.kv_heads * shape.head_dim, shape.qkv_bias)
        self.v_proj = Linear(shape.hidden_size, shape.kv_heads * shape.head_dim, shape.qkv_bias)
        self.o_proj = Linear(shape.heads * shape.head_dim, shape.hidden_size, False)

    def attend(
        self, x_TD: Tensor, positions: Positions, cache: KVCache | None, chosen: Tensor | None = None
    ) -> Tensor:
        """The heads' outputs side by side, before the output map: (T, N * H), or (R, N * H) of `chosen`."""
        heads, kv_heads, H = self.shape.heads, self.shape.kv_heads, self.shape.head_dim
        maps = (self.q_proj, self.k_proj, self.v_proj)
        q_TO, k_TO, v_TO = ops.qkv(x_TD, *weights_and_biases(maps))
        q_TNH, k_TKH = reshape(q_TO, [-1, heads, H]), reshape(k_TO, [-1, kv_heads, H])
        v_TKH = reshape(v_TO, [-1, kv_heads, H])
        q_TNH, k_TKH = ops.rotary(q_TNH, k_TKH, positions.cos_T1H, positions.sin_T1H)
        if positions.query_scale_T11 is not None:
            q_TNH = q_TNH * cast(positions.query_scale_T11, q_TNH.dtype)
        if cache is not None:
            cache.fill(self.index, k_TKH, v_TKH)
            if chosen is not None:  # the last token of each row: what it attends to is the whole cache
                q_BNH = reshape(take_rows(reshape(q_TNH, [-1, heads * H]), chosen), [-1, heads, H])
                return reshape(cache.attend(self.index, q_BNH), [-1, heads * H])
        dropout = {}
        if self.training and self.shape.attention_dropout:
            keys = positions.random.keys(self.index)
            dropout = dict(dropout=self.shape.attention_dropout, dropout_keys=keys)
            dropout["dropout_head"] = self.shape.first_head
        if positions.cu_seqlens is not None:
            out = ops.attention_packed(q_TNH, k_TKH, v_TKH, positions.cu_seqlens, causal=True, **dropout)
        else:
            B = positions.rows
            out = ops.attention(
                reshape(q_TNH, [B, -1, heads, H]),
                reshape(k_TKH, [B, -1, kv_heads, H]),
                reshape(v_TKH, [B, -1, kv_heads, H]),
                causal=True,
                **dropout,
            )
        out = reshape(out, [-1, heads * H])
        return out if chosen is None else take_rows(out, chosen)


class DecoderLayer(nn.Layer):
    def __init__(self, shape: DecoderShape, index: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(shape.hidden_size, shape.eps)
        self.self_attn = SelfAttention(shape, index)
        self.post_attention_layernorm = RMSNorm(shape.hidden_size, shape.eps)
        self.mlp = GatedMLP(shape.hidden_size, shape.intermediate_size, bias=False)

    def forward(
        self,
        x_TD: Tensor,
        branch_TD: Tensor | None,
        positions: Positions,
        cache: KVCache | None = None,
        chosen: Tensor | None = None,
        *,
        again: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """One layer of ``x + branch``, as two tensors (T, D) yet to be summed: the next norm sums them.

        With `chosen` (indices of tokens) of those only, (R, D). `again`: the attention half is computed again
        going back.
        """
        if again:
            x_TD = x_TD if branch_TD is None else residual(x_TD, branch_TD)
            out = recompute(self.attended, x_TD, positions, cache, chosen)
        elif branch_TD is None:
            out = self.attended(x_TD, positions, cache, chosen)
        else:
            x_TD, normed_TD = self.input_layernorm.after_residual(x_TD, branch_TD)
            out = self.self_attn.o_proj(self.self_attn.attend(normed_TD, positions, cache, chosen))
        if chosen is not None:
            # whatever follows the attention works token by token
            x_TD = take_rows(x_TD, chosen)
        x_TD, normed_TD = self.post_attention_layernorm.after_residual(x_TD, out)
        return x_TD, self.mlp(normed_TD)

    def attended(
        self, x_TD: Tensor, positions: Positions, cache: KVCache | None, chosen: Tensor | None
    ) -> Tensor:
        """What the attention half adds to its input."""
        out = self.self_attn.attend(self.input_layernorm(x_TD), positions, cache, chosen)
        return self.self_attn.o_proj(out)

    def summed(self, x_TD: Tensor, *rest: Any) -> Tensor:
        """One layer of one tensor, summed."""
        return residual(*self(x_TD, None, *rest))

    def weights(self) -> LayerWeights:
        attention, mlp, norm = self.self_attn, self.mlp, self.input_layernorm
        maps = weights_and_biases((attention.q_proj, attention.k_proj, attention.v_proj))
        of_mlp, _ = weights_and_biases((mlp.gate_proj, mlp.up_proj, mlp.down_proj))
        post_norm = self.post_attention_layernorm.weight
        return LayerWeights(norm.weight, *maps, attention.o_proj.matrix, post_norm, of_mlp, norm.eps)


class Decoder(nn.Layer):
    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.LayerList([DecoderLayer(shape, index) for index in range(shape.layers)])
        self.norm = RMSNorm(shape.hidden_size, shape.eps)
        self.recompute = False
        """Whether training keeps a layer's input only and computes the layer again going back, or `Again`."""
        self.summed: Callable[[Tensor], Tensor] | None = None
        """Sums what devices have of a branch, where they share each layer (models/parallel)."""

    def forward(
        self,
        x_TD: Tensor,
        positions: Positions,
        cache: KVCache | None = None,
        chosen: np.ndarray | None = None,
    ) -> Tensor:
        """Embeddings (T, D) -> hidden states after the last norm (T, D), or of `chosen` tokens (R, D).

        With a cache the chosen are the last token of each row.
        """
        if positions.decoding:
            cache.weights = cache.weights or [layer.weights() for layer in self.layers]
            tables, scale = (positions.cos_T1H, positions.sin_T1H), positions.query_scale_T11
            layers = cache.weights, cache.of_layers()
            return self.norm(ops.decode_layers(x_TD, *layers, *tables, scale, summed=self.summed))
        return self.normed(*self.run(x_TD, positions, range(len(self.layers)), cache, chosen))

    def run(
        self,
        x_TD: Tensor,
        positions: Positions,
        layers: range,
        cache: KVCache | None = None,
        chosen: np.ndarray | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Some layers one after the other -> hidden state and branch (T, D) yet to be summed.

        The last layer of all gives those of the `chosen` tokens alone, (R, D).
        """
        chosen = None if chosen is None else paddle.to_tensor(chosen)
        last, branch_TD = len(self.layers) - 1, None
        for i in layers:
            layer, rest = self.layers[i], (positions, cache, chosen if i == last else None)
            again = asked_of(self, i)
            if again == "all":
                x_TD = x_TD if branch_TD is None else residual(x_TD, branch_TD)
                x_TD, branch_TD = recompute(layer.summed, x_TD, *rest), None
            else:
                x_TD, branch_TD = layer(x_TD, branch_TD, *rest, again=bool(again))
        return x_TD, branch_TD

    def normed(self, x_TD: Tensor, branch_TD: Tensor | None) -> Tensor:
        """The last norm of ``x + branch``."""
        return self.norm(x_TD) if branch_TD is None else self.norm.after_residual(x_TD, branch_TD)[1]

    def new_cache(self, batch_size: int, max_length: int) -> KVCache:
        return KVCache(batch_size, max_length, self.shape.layers, self.shape.kv_heads, self.shape.head_dim)
