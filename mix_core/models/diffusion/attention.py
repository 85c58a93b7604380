"""Attention, the feed-forward block and the transformer block of the U-Net.

Shapes: B batch, S queries, M keys, N heads, H head dim, D model dim, F feed-forward width, C channels.
Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", 2022.
"""

from __future__ import annotations

from paddle import Tensor, nn

from mix_core import ops
from mix_core.models.common.layers import LayerNorm, Linear, residual, weights_and_biases
from mix_core.models.common.recompute import applied
from mix_core.models.diffusion.layers import GroupNorm
from mix_core.ops.dtypes import cast

EPS = 1e-5
"""Of the transformer block's norms; fixed in the architecture."""
NORM_EPS = 1e-6
"""Of the group norm before the blocks."""


class Attention(nn.Layer):
    """Of a sequence over itself, or over the text's."""

    def __init__(self, width: int, heads: int, *, context: int | None = None, bias: bool = False) -> None:
        """`context`: width of the sequence that keys and values are made of; None: the queries' own."""
        super().__init__()
        self.heads, self.head_dim = heads, width // heads
        self.to_q = Linear(width, width, bias)
        self.to_k = Linear(context or width, width, bias)
        self.to_v = Linear(context or width, width, bias)
        self.to_out = nn.LayerList([Linear(width, width, True)])

    def forward(
        self, x_BSD: Tensor, context_BMD: Tensor | None = None, *, norm: nn.Layer | None = None
    ) -> Tensor:
        """`norm`: what x passes first."""
        if context_BMD is None:
            maps = weights_and_biases((self.to_q, self.to_k, self.to_v))
            q, k, v = applied(lambda normed_BSD: ops.qkv(normed_BSD, *maps), norm, x_BSD)
        else:
            q = applied(self.to_q, norm, x_BSD)
            k, v = self.to_k(context_BMD), self.to_v(context_BMD)
        out = ops.attention(*(split_heads(one, self.heads) for one in (q, k, v)), causal=False)
        return self.to_out[0](out.reshape(x_BSD.shape))


def split_heads(x_BSD: Tensor, heads: int) -> Tensor:
    """(B, S, N * H) -> (B, S, N, H)."""
    B, S, D = x_BSD.shape
    return x_BSD.reshape([B, S, heads, D // heads])


class GEGLU(nn.Layer):
    """``x value * gelu(x gate)``. Shazeer, "GLU Variants Improve Transformer", 2020."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = Linear(width, 2 * inner, True)

    @staticmethod
    def activated(projected: Tensor) -> Tensor:
        """Of what `proj` gives."""
        return ops.geglu(projected)


class GELU(nn.Layer):
    """``gelu(x proj)`` in the form with tanh."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = Linear(width, inner, True)

    @staticmethod
    def activated(projected: Tensor) -> Tensor:
        """Of what `proj` gives."""
        return ops.gelu(projected, "tanh")


class FeedForward(nn.Layer):
    """`gate` of the width D to 4 D, and a linear map back; the files call them net.0 and net.2."""

    def __init__(self, width: int, gate: type[nn.Layer]) -> None:
        super().__init__()
        self.net = nn.LayerDict({"0": gate(width, 4 * width), "2": Linear(4 * width, width, True)})

    def forward(self, x: Tensor, *, norm: nn.Layer | None = None) -> Tensor:
        """`norm`: what x passes first."""
        gate = self.net["0"]
        return applied(self.net["2"], gate.activated, applied(gate.proj, norm, x))


class TransformerBlock(nn.Layer):
    """Attention over the picture, attention over the text, feed-forward, each after a norm."""

    def __init__(self, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.norm1, self.attn1 = LayerNorm(width, EPS), Attention(width, heads)
        self.norm2, self.attn2 = LayerNorm(width, EPS), Attention(width, heads, context=context)
        self.norm3, self.ff = LayerNorm(width, EPS), FeedForward(width, GEGLU)

    def forward(self, x_BSD: Tensor, context_BMD: Tensor) -> Tensor:
        x_BSD = residual(x_BSD, self.attn1(x_BSD, norm=self.norm1))
        x_BSD = residual(x_BSD, self.attn2(x_BSD, context_BMD, norm=self.norm2))
        return residual(x_BSD, self.ff(x_BSD, norm=self.norm3))


class SpatialTransformer(nn.Layer):
    """Transformer blocks over the places of a feature map, as a residual branch.

    proj_in and proj_out are linear maps of a place's channels. SD 1.5 stores them as convolutions of 1x1,
    which do the same; `conv_projections` finds those.
    """

    def __init__(self, channels: int, heads: int, depth: int, context: int, groups: int) -> None:
        super().__init__()
        self.norm = GroupNorm(groups, channels, NORM_EPS)
        self.proj_in = Linear(channels, channels, True)
        self.transformer_blocks = nn.LayerList(
            [TransformerBlock(channels, heads, context) for _ in range(depth)]
        )
        self.proj_out = Linear(channels, channels, True)

    def forward(self, x_BCHW: Tensor, context_BMD: Tensor) -> Tensor:
        tokens_BSC = applied(self.proj_in, self._normed, x_BCHW)
        tokens_BSC = cast(tokens_BSC, x_BCHW.dtype)
        for block in self.transformer_blocks:
            tokens_BSC = block(tokens_BSC, context_BMD)
        return residual(x_BCHW, to_map(self.proj_out(tokens_BSC), x_BCHW.shape))

    def _normed(self, x_BCHW: Tensor) -> Tensor:
        return to_tokens(self.norm(x_BCHW))


def to_tokens(x_BCHW: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H * W, C)."""
    return x_BCHW.reshape([*x_BCHW.shape[:2], -1]).transpose([0, 2, 1])


def to_map(tokens_BSC: Tensor, shape: list[int]) -> Tensor:
    """(B, H * W, C) -> `shape`, which is (B, C, H, W)."""
    return tokens_BSC.transpose([0, 2, 1]).reshape(shape)


def conv_projections(model: nn.Layer) -> dict[str, tuple[int, ...]]:
    """The shapes of proj_in and proj_out where they are stored as convolutions."""
    return {
        f"{path}.{name}.weight": (*layer.proj_in.weight.shape, 1, 1)
        for path, layer in model.named_sublayers()
        if isinstance(layer, SpatialTransformer)
        for name in ("proj_in", "proj_out")
    }
