"""T5's encoder, v1.1 (SD3: XXL) and v1.0.

Norms scale by the root mean square and do not centre; attention is not scaled and has a learned bias for each
distance and head, which the first layer holds for all. Parameters bear the published names.

float16 holds no number above 65504, and XXL's residual stream and the products before `wo` grow beyond that:
both are float32 whatever the parameters are, and so are the norms' factors.

Shapes: B rows, S tokens, D width, N heads, H head dim, F feed-forward width.
Raffel et al., 2020 (arXiv 1910.10683); Shazeer, "GLU Variants Improve Transformer", 2020 (arXiv 2002.05202).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import paddle
from paddle import Tensor, nn

from mix_core import ops
from mix_core.errors import DataError
from mix_core.models.common.layers import Embedding, Linear, RMSNorm, residual
from mix_core.models.common.recompute import recompute
from mix_core.models.t5.attention import biased_attention
from mix_core.models.t5.config import T5Config
from mix_core.models.t5.geometry import distance_buckets
from mix_core.ops.dtypes import cast, widened


class Norm(RMSNorm):
    def forward(self, x: Tensor) -> Tensor:
        """The norm of a float32 stream, in the dtype of the weight."""
        return cast(ops.rms_norm(x, widened(self.weight), self.eps), self.weight.dtype)


class SelfAttention(nn.Layer):
    def __init__(self, config: T5Config, has_bias: bool) -> None:
        super().__init__()
        inner = config.num_heads * config.d_kv
        self.heads, self.head_dim = config.num_heads, config.d_kv
        self.q, self.k = Linear(config.d_model, inner, False), Linear(config.d_model, inner, False)
        self.v, self.o = Linear(config.d_model, inner, False), Linear(inner, config.d_model, False)
        if has_bias:
            buckets = config.relative_attention_num_buckets
            self.relative_attention_bias = Embedding(buckets, config.num_heads)

    def forward(self, x_BSD: Tensor, bias_of: Callable[[], Tensor]) -> Tensor:
        """`bias_of` gives what is added to the scores, (N, S, S)."""
        B, S, _ = x_BSD.shape
        q, k, v = (
            part.reshape([B, S, self.heads, self.head_dim])
            for part in ops.qkv(x_BSD, (self.q.matrix, self.k.matrix, self.v.matrix))
        )
        return self.o(biased_attention(q, k, v, bias_of()).reshape([B, S, -1]))


class GatedFeedForward(nn.Layer):
    """v1.1: ``wo(gelu(wi_0(x)) * wi_1(x))``, with gelu's tanh form."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.wi_0 = Linear(config.d_model, config.d_ff, False)
        self.wi_1 = Linear(config.d_model, config.d_ff, False)
        self.wo = Linear(config.d_ff, config.d_model, False)

    def forward(self, x_BSD: Tensor) -> Tensor:
        inner_BSF = _unbounded(ops.gelu(self.wi_0(x_BSD), "tanh")) * _unbounded(self.wi_1(x_BSD))
        return _wide_product(self.wo, inner_BSF)


class FeedForward(nn.Layer):
    """v1.0: ``wo(relu(wi(x)))``."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.wi = Linear(config.d_model, config.d_ff, False)
        self.wo = Linear(config.d_ff, config.d_model, False)

    def forward(self, x_BSD: Tensor) -> Tensor:
        return _wide_product(self.wo, _unbounded(nn.functional.relu(self.wi(x_BSD))))


def _unbounded(x: Tensor) -> Tensor:
    """x where its dtype reaches far enough, else in float32."""
    return widened(x) if x.dtype == paddle.float16 else x


def _wide_product(wo: Linear, x: Tensor) -> Tensor:
    """``wo(x)``, in float32 where the weights are float16."""
    if wo.weight.dtype != paddle.float16:
        return wo(x)
    if wo.adapters is not None:
        raise DataError("adapters of T5's wo are not built in float16; run the text encoder in float32")
    return ops.linear(x, widened(wo.weight))


class AttentionBlock(nn.Layer):
    def __init__(self, config: T5Config, has_bias: bool) -> None:
        super().__init__()
        self.SelfAttention = SelfAttention(config, has_bias)
        self.layer_norm = Norm(config.d_model, config.layer_norm_epsilon)

    def forward(self, x_BSD: Tensor, bias_of: Callable[[], Tensor]) -> Tensor:
        return residual(x_BSD, self.SelfAttention(self.layer_norm(x_BSD), bias_of))


class FeedForwardBlock(nn.Layer):
    def __init__(self, config: T5Config) -> None:
        super().__init__()
        gated = config.feed_forward_proj == "gated-gelu"
        self.DenseReluDense = GatedFeedForward(config) if gated else FeedForward(config)
        self.layer_norm = Norm(config.d_model, config.layer_norm_epsilon)

    def forward(self, x_BSD: Tensor) -> Tensor:
        return residual(x_BSD, self.DenseReluDense(self.layer_norm(x_BSD)))


class Block(nn.Layer):
    def __init__(self, config: T5Config, has_bias: bool) -> None:
        super().__init__()
        self.layer = nn.LayerList([AttentionBlock(config, has_bias), FeedForwardBlock(config)])

    def forward(self, x_BSD: Tensor, bias_of: Callable[[], Tensor]) -> Tensor:
        return self.layer[1](self.layer[0](x_BSD, bias_of))


class Stack(nn.Layer):
    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.block = nn.LayerList([Block(config, i == 0) for i in range(config.num_layers)])
        self.final_layer_norm = Norm(config.d_model, config.layer_norm_epsilon)


class T5Encoder(nn.Layer):
    """T5EncoderModel."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.config = config
        self.shared = Embedding(config.vocab_size, config.d_model)
        self.encoder = Stack(config)
        self.recompute = False
        """Whether training keeps each layer's input only."""
        self.random = None
        """Set where adapters draw in training."""

    def forward(self, ids_BS: np.ndarray) -> Tensor:
        """Token ids (B, S) on the host -> (B, S, D).

        Padding is not masked: SD3 was trained with rows filled up to their full length. Raises DataError.
        """
        ids_BS = np.asarray(ids_BS)
        if ids_BS.ndim != 2 or ids_BS.min() < 0 or ids_BS.max() >= self.config.vocab_size:
            raise DataError(
                f"token ids of shape {ids_BS.shape} go up to {ids_BS.max(initial=0)}, expected rows of less "
                f"than {self.config.vocab_size}; do tokenizer and text encoder belong together?"
            )
        length = ids_BS.shape[1]
        x_BSD = widened(self.shared(paddle.to_tensor(ids_BS)))
        if self.recompute and self.training:
            for block in self.encoder.block:  # each makes the bias again, or its table would get no gradient
                x_BSD = recompute(block, x_BSD, lambda: self.bias(length))
        else:
            bias_NSS = self.bias(length)
            for block in self.encoder.block:
                x_BSD = block(x_BSD, lambda: bias_NSS)
        return self.encoder.final_layer_norm(x_BSD)

    def bias(self, length: int) -> Tensor:
        """What is added to the scores of rows of `length` tokens, (N, S, S)."""
        config = self.config
        buckets_SS = distance_buckets(
            length, config.relative_attention_num_buckets, config.relative_attention_max_distance
        )
        table = self.encoder.block[0].layer[0].SelfAttention.relative_attention_bias
        return table(paddle.to_tensor(buckets_SS)).transpose([2, 0, 1])
