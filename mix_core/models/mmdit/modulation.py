"""Norms that are shifted, scaled and gated by the time step (AdaLN-Zero).

Peebles and Xie, "Scalable Diffusion Models with Transformers", 2023. A row's numbers are spread over its
tokens, and gradients summed over them, by products with ones: Paddle's broadcasts and reductions cost several
times as much on a CPU.

Shapes: B batch, S tokens, D model dim.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import paddle
from paddle import Tensor, _C_ops, nn
from paddle.autograd import PyLayer

from mix_core import ops
from mix_core.models.common.layers import Linear
from mix_core.ops.dtypes import cast
from mix_core.ops.gradients import frozen, unless

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
    return _Affine.apply(normed, *(cast(one, normed.dtype).unsqueeze(1) for one in (shift_BD, scale_BD)))


def gated(x_BSD: Tensor, branch_BSD: Tensor, gate_BD: Tensor) -> Tensor:
    """``x + gate * branch`` in the dtype of x."""
    dtype = x_BSD.dtype
    return _Gate.apply(x_BSD, cast(branch_BSD, dtype), cast(gate_BD, dtype).unsqueeze(1))


class _Affine(PyLayer):
    """``x * (1 + scale) + shift``, shift and scale (B, 1, D)."""

    @staticmethod
    def forward(ctx: Any, x_BSD: Tensor, shift_B1D: Tensor, scale_B1D: Tensor) -> Tensor:
        ctx.save_for_backward(x_BSD, scale_B1D)
        ctx.frozen = frozen(x_BSD, shift_B1D, scale_B1D)
        S = x_BSD.shape[1]
        return _spread(scale_B1D + 1.0, S).multiply_(x_BSD).add_(_spread(shift_B1D, S))

    @staticmethod
    def backward(ctx: Any, grad_BSD: Tensor) -> tuple[Tensor | None, ...]:
        x_BSD, scale_B1D = ctx.saved_tensor()
        dscale = _summed(_C_ops.multiply(grad_BSD, x_BSD))
        dx = _spread(scale_B1D + 1.0, x_BSD.shape[1]).multiply_(grad_BSD)
        return unless(ctx.frozen, dx, _summed(grad_BSD), dscale)


class _Gate(PyLayer):
    """``x + gate * branch``, gate (B, 1, D)."""

    @staticmethod
    def forward(ctx: Any, x_BSD: Tensor, branch_BSD: Tensor, gate_B1D: Tensor) -> Tensor:
        ctx.save_for_backward(branch_BSD, gate_B1D)
        ctx.frozen = frozen(x_BSD, branch_BSD, gate_B1D)
        return _spread(gate_B1D, x_BSD.shape[1]).multiply_(branch_BSD).add_(x_BSD)

    @staticmethod
    def backward(ctx: Any, grad_BSD: Tensor) -> tuple[Tensor | None, ...]:
        branch_BSD, gate_B1D = ctx.saved_tensor()
        dgate = _summed(_C_ops.multiply(grad_BSD, branch_BSD))
        dbranch = _spread(gate_B1D, grad_BSD.shape[1]).multiply_(grad_BSD)
        return unless(ctx.frozen, grad_BSD, dbranch, dgate)


def _spread(row_B1D: Tensor, tokens: int) -> Tensor:
    """(B, 1, D) -> (B, S, D)."""
    ones_BS1 = _ones(row_B1D.shape[0], tokens, row_B1D.dtype)
    return _C_ops.matmul(ones_BS1, row_B1D, False, False)


def _summed(x_BSD: Tensor) -> Tensor:
    """(B, S, D) -> (B, 1, D)."""
    ones_BS1 = _ones(x_BSD.shape[0], x_BSD.shape[1], x_BSD.dtype)
    return _C_ops.matmul(ones_BS1, x_BSD, True, False)


@lru_cache(maxsize=32)
def _ones(batch: int, tokens: int, dtype: Any) -> Tensor:
    return paddle.ones([batch, tokens, 1], dtype)
