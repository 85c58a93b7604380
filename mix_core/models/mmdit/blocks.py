"""The blocks of SD3's transformer: picture and text, each with maps of its own, attend to both together.

Shapes: B batch, S tokens of the picture, M of the text, D model dim, N heads, H head dim.
Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis", 2024, section 4.
"""

from __future__ import annotations

import paddle
from paddle import Tensor, nn

from mix_core import ops
from mix_core.models.common.layers import Linear, RMSNorm, weights_and_biases
from mix_core.models.diffusion.attention import GELU, FeedForward, split_heads
from mix_core.models.mmdit.modulation import Modulation, gated, modulated
from mix_core.ops.dtypes import cast

EPS = 1e-6
"""Of all norms; fixed in the architecture."""


class JointAttention(nn.Layer):
    """Over the picture's tokens and, where `joint` is set, the text's behind them."""

    def __init__(self, width: int, heads: int, *, joint: bool, text_goes_on: bool, norms: bool) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (Linear(width, width, True) for _ in range(3))
        self.to_out = nn.LayerList([Linear(width, width, True)])
        self.norm_q, self.norm_k = self._norms(width // heads, norms)
        self.add_q_proj = self.add_k_proj = self.add_v_proj = self.to_add_out = None
        self.norm_added_q = self.norm_added_k = None
        if joint:
            self.add_q_proj, self.add_k_proj, self.add_v_proj = (Linear(width, width, True) for _ in range(3))
            self.to_add_out = Linear(width, width, True) if text_goes_on else None
            self.norm_added_q, self.norm_added_k = self._norms(width // heads, norms)

    @staticmethod
    def _norms(head_dim: int, wanted: bool) -> tuple[RMSNorm | None, RMSNorm | None]:
        return (RMSNorm(head_dim, EPS), RMSNorm(head_dim, EPS)) if wanted else (None, None)

    def forward(self, x_BSD: Tensor, text_BMD: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Results for the picture and for the text; None where the text ends here."""
        parts = self._heads(x_BSD, (self.to_q, self.to_k, self.to_v), self.norm_q, self.norm_k)
        if text_BMD is not None:
            maps = (self.add_q_proj, self.add_k_proj, self.add_v_proj)
            of_text = self._heads(text_BMD, maps, self.norm_added_q, self.norm_added_k)
            parts = tuple(paddle.concat(pair, axis=1) for pair in zip(parts, of_text))
        out = ops.attention(*parts, causal=False)
        out = out.reshape([*out.shape[:2], -1])
        if text_BMD is None:
            return self.to_out[0](out), None
        of_picture, of_text = out.split([x_BSD.shape[1], text_BMD.shape[1]], axis=1)
        return self.to_out[0](of_picture), None if self.to_add_out is None else self.to_add_out(of_text)

    def _heads(
        self, x_BSD: Tensor, maps: tuple[Linear, ...], norm_q: RMSNorm | None, norm_k: RMSNorm | None
    ) -> tuple[Tensor, ...]:
        q, k, v = (split_heads(one, self.heads) for one in ops.qkv(x_BSD, *weights_and_biases(maps)))
        # norms give the dtype of their weights, which products may be narrower than
        q = q if norm_q is None else cast(norm_q(q), v.dtype)
        return q, k if norm_k is None else cast(norm_k(k), v.dtype), v


class JointBlock(nn.Layer):
    """Attention of both together, then a feed-forward block for each; the last block drops the text."""

    def __init__(self, width: int, heads: int, *, last: bool, dual: bool, norms: bool) -> None:
        super().__init__()
        self.norm1 = Modulation(width, 9 if dual else 6)
        self.norm1_context = Modulation(width, 2 if last else 6)
        self.attn = JointAttention(width, heads, joint=True, text_goes_on=not last, norms=norms)
        self.attn2 = (
            JointAttention(width, heads, joint=False, text_goes_on=False, norms=norms) if dual else None
        )
        self.ff = FeedForward(width, GELU)
        self.ff_context = None if last else FeedForward(width, GELU)

    def forward(
        self, x_BSD: Tensor, text_BMD: Tensor, activated_BD: Tensor
    ) -> tuple[Tensor, Tensor] | Tensor:
        """`activated_BD`: silu of the embedding of time and pooled text, which is the same for all blocks.

        Returns both streams, and in the last block the picture's.
        """
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate, *dual = self.norm1(activated_BD)
        of_text = self.norm1_context(activated_BD)
        # files give the last block's norm of the text its two numbers the other way round
        text_shift, text_scale = of_text[:2] if self.ff_context is not None else of_text[::-1]
        found, found_text = self.attn(
            modulated(x_BSD, shift, scale), modulated(text_BMD, text_shift, text_scale)
        )
        total_BSD = gated(x_BSD, found, gate)
        if self.attn2 is not None:
            alone, _ = self.attn2(modulated(x_BSD, dual[0], dual[1]))
            total_BSD = gated(total_BSD, alone, dual[2])
        total_BSD = gated(total_BSD, self.ff(modulated(total_BSD, mlp_shift, mlp_scale)), mlp_gate)
        if self.ff_context is None:
            return total_BSD
        _, _, text_gate, *of_mlp = of_text
        text_BMD = gated(text_BMD, found_text, text_gate)
        branch = self.ff_context(modulated(text_BMD, of_mlp[0], of_mlp[1]))
        return total_BSD, gated(text_BMD, branch, of_mlp[2])
