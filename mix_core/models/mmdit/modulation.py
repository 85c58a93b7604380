"""Norms that are shifted, scaled and gated by the time step (AdaLN-Zero).

Peebles and Xie, "Scalable Diffusion Models with Transformers", 2023.

Shapes: B batch, S tokens, D model dim.
"""

from __future__ import annotations

from paddle import Tensor, nn

from mix_core import ops
from mix_core.models.common.layers import Linear
from mix_core.ops.dtypes import cast

EPS = 1e-6


class Modulation(nn.Layer):
    """A row's numbers out of its activated embedding (B, D): `count` tensors (B, D)."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.count = count
        self.linear = Linear(width, count * width, True)

    def forward(self, activated_BD: Tensor) -> list[Tensor]:
        found: list[Tensor] = self.linear(activated_BD).split(self.count, axis=-1)
        return found


def modulated(x_BSD: Tensor, shift_BD: Tensor, scale_BD: Tensor) -> Tensor:
    """``norm(x) * (1 + scale) + shift``, the norm being a layer norm without weight and bias."""
    normed = ops.layer_norm(x_BSD, None, None, EPS)
    shift, scale = (cast(one, normed.dtype).unsqueeze(1) for one in (shift_BD, scale_BD))
    return normed * (scale + 1.0) + shift


def gated(x_BSD: Tensor, branch_BSD: Tensor, gate_BD: Tensor) -> Tensor:
    """``x + gate * branch`` in the dtype of x."""
    return x_BSD + cast(gate_BD, x_BSD.dtype).unsqueeze(1) * cast(branch_BSD, x_BSD.dtype)
