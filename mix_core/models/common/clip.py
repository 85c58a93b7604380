"""The block of CLIP's two transformers: pictures (LLaVA's tower) and text.

Shapes: B rows, S tokens, D width, N heads, H head dim.
Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021.
"""

from __future__ import annotations

from paddle import Tensor, nn

from mix_core import ops
from mix_core.models.common.layers import MLP, LayerNorm, Linear, residual, weights_and_biases
from mix_core.models.common.recompute import Run, run

GELU_FORMS = {"quick_gelu": "quick", "gelu": "erf", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}
"""Forms of `ops.gelu` by the names that config.json gives them (`hidden_act`)."""


class ClipAttention(nn.Layer):
    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.head_dim, self.causal = heads, width // heads, causal
        self.q_proj, self.k_proj = Linear(width, width, True), Linear(width, width, True)
        self.v_proj, self.out_proj = Linear(width, width, True), Linear(width, width, True)

    def forward(self, x_BSD: Tensor) -> Tensor:
        B, S, D = x_BSD.shape
        maps = weights_and_biases((self.q_proj, self.k_proj, self.v_proj))
        q_BSNH, k_BSNH, v_BSNH = (
            part.reshape([B, S, self.heads, self.head_dim]) for part in ops.qkv(x_BSD.reshape([-1, D]), *maps)
        )
        out_BSNH = ops.attention(q_BSNH, k_BSNH, v_BSNH, causal=self.causal)
        return self.out_proj(out_BSNH.reshape([B, S, D]))


class ClipLayer(nn.Layer):
    """Attention, then the feed-forward, each behind a norm and beside a residual."""

    def __init__(self, width: int, heads: int, inner: int, *, act: str, eps: float, causal: bool) -> None:
        super().__init__()
        self.layer_norm1 = LayerNorm(width, eps)
        self.self_attn = ClipAttention(width, heads, causal)
        self.layer_norm2 = LayerNorm(width, eps)
        self.mlp = MLP(width, inner, GELU_FORMS[act])

    def forward(self, x_BSD: Tensor, branch: Run = run) -> Tensor:
        x_BSD = residual(x_BSD, branch(self.attended, x_BSD))
        return residual(x_BSD, self.mlp(self.layer_norm2(x_BSD)))

    def attended(self, x_BSD: Tensor) -> Tensor:
        return self.self_attn(self.layer_norm1(x_BSD))
