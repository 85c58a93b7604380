"""A causal decoder with grouped-query attention and rotary positions: the text half of the models.

Shapes: B batch, S sequence, D model dim, N query heads, K key/value heads, H head dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from paddle import Tensor, nn

from mix_core import ops
from mix_core.models.common.layers import Embedding, GatedMLP, Linear, RMSNorm


@dataclass(frozen=True, kw_only=True)
class DecoderShape:
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    qkv_bias: bool
    attention_dropout: float


@dataclass(frozen=True, kw_only=True)
class Positions:
    """Where the tokens of one call stand, and what each may attend to; the same for all layers."""

    cos_BS1H: Tensor
    sin_BS1H: Tensor
    mask_B1SS: Tensor | None = None
    """True = attend; None where causal order says it all (no padding, or padding on the right)."""
    cu_seqlens: np.ndarray | None = None
    """Ends of packed segments; the batch is then one row."""


class SelfAttention(nn.Layer):
    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.shape = shape
        self.q_proj = Linear(shape.hidden_size, shape.heads * shape.head_dim, shape.qkv_bias)
        self.k_proj = Linear(shape.hidden_size, shape.kv_heads * shape.head_dim, shape.qkv_bias)
        self.v_proj = Linear(shape.hidden_size, shape.kv_heads * shape.head_dim, shape.qkv_bias)
        self.o_proj = Linear(shape.heads * shape.head_dim, shape.hidden_size, False)

    def forward(self, x_BSD: Tensor, positions: Positions) -> Tensor:
        B, S = x_BSD.shape[:2]
        heads, kv_heads, H = self.shape.heads, self.shape.kv_heads, self.shape.head_dim
        q_BSNH = self.q_proj(x_BSD).reshape([B, S, heads, H])
        k_BSKH = self.k_proj(x_BSD).reshape([B, S, kv_heads, H])
        v_BSKH = self.v_proj(x_BSD).reshape([B, S, kv_heads, H])
        q_BSNH, k_BSKH = ops.rotary(q_BSNH, k_BSKH, positions.cos_BS1H, positions.sin_BS1H)
        dropout = self.shape.attention_dropout if self.training else 0.0
        if positions.cu_seqlens is not None:
            out = ops.attention_packed(
                q_BSNH[0], k_BSKH[0], v_BSKH[0], positions.cu_seqlens, causal=True, dropout=dropout
            )
        else:
            causal = positions.mask_B1SS is None
            out = ops.attention(
                q_BSNH, k_BSKH, v_BSKH, causal=causal, mask_BNSS=positions.mask_B1SS, dropout=dropout
            )
        return self.o_proj(out.reshape([B, S, heads * H]))


class DecoderLayer(nn.Layer):
    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(shape.hidden_size, shape.eps)
        self.self_attn = SelfAttention(shape)
        self.post_attention_layernorm = RMSNorm(shape.hidden_size, shape.eps)
        self.mlp = GatedMLP(shape.hidden_size, shape.intermediate_size, bias=False)

    def forward(self, x_BSD: Tensor, positions: Positions) -> Tensor:
        x_BSD = x_BSD + self.self_attn(self.input_layernorm(x_BSD), positions)
        return x_BSD + self.mlp(self.post_attention_layernorm(x_BSD))


class Decoder(nn.Layer):
    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.embed_tokens = Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.LayerList([DecoderLayer(shape) for _ in range(shape.layers)])
        self.norm = RMSNorm(shape.hidden_size, shape.eps)

    def forward(self, x_BSD: Tensor, positions: Positions) -> Tensor:
        for layer in self.layers:
            x_BSD = layer(x_BSD, positions)
        return self.norm(x_BSD)
