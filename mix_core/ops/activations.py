"""Activations: swiglu, the forms of gelu, geglu.

Shapes: `...` any axes, F feed-forward width.
"""

from __future__ import annotations

from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor, _C_ops
from paddle.autograd import PyLayer

from mix_core.ops.arguments import check_geglu, check_gelu, check_swiglu
from mix_core.ops.dispatch import kernel_for
from mix_core.ops.dtypes import in_float32
from mix_core.ops.gradients import frozen, unless

GELU_FORMS = ("erf", "tanh", "quick")


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """``silu(gate) * up``, both (..., F). Shazeer, "GLU Variants Improve Transformer", 2020."""
    check_swiglu(gate, up)
    kernel = kernel_for("swiglu", gate.dtype, training=not gate.stop_gradient)
    if kernel is not None:
        return kernel(gate, up)
    return _swiglu(gate, up)


@in_float32
def _swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return _SwiGLU.apply(gate, up)


class _SwiGLU(PyLayer):
    """The sigmoid is taken as ``(1 + tanh(gate / 2)) / 2``: Paddle's tanh costs half its exp on a CPU."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        sigmoid = _C_ops.scale(gate, 0.5, 0.0, True).tanh_().scale_(0.5, 0.5)
        ctx.save_for_backward(gate, up, sigmoid)
        ctx.frozen = frozen(gate, up)
        return _C_ops.multiply(gate, sigmoid).multiply_(up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gate, up, sigmoid = ctx.saved_tensor()
        silu = _C_ops.multiply(gate, sigmoid)
        # silu' = sigmoid + silu (1 - sigmoid)
        slope = _C_ops.multiply(silu, sigmoid)
        slope = _C_ops.subtract(silu, slope).add_(sigmoid)
        return unless(ctx.frozen, slope.multiply_(up).multiply_(grad), silu.multiply_(grad))


def gelu(x: Tensor, form: str = "erf") -> Tensor:
    """Gaussian error linear unit, x (...) -> (...). Hendrycks and Gimpel, 2016.

    form: "erf" (exact), "tanh" (its approximation) or "quick" (``x * sigmoid(1.702 x)``, CLIP's).
    """
    if form not in GELU_FORMS:
        raise ValueError(f"gelu has the forms erf, tanh and quick, got {form!r}")
    check_gelu(x)
    kernel = kernel_for("gelu", x.dtype, training=not x.stop_gradient, size_class=form)
    if kernel is not None:
        return kernel(x, form)
    return _gelu(x, form)


@in_float32
def _gelu(x: Tensor, form: str) -> Tensor:
    if form == "erf":
        return F.gelu(x)
    if form == "tanh":
        return F.gelu(x, approximate=True)
    return x * F.sigmoid(1.702 * x)


def geglu(x: Tensor) -> Tensor:
    """``value * gelu(gate)`` in gelu's exact form; x (..., 2 F), values before gates -> (..., F).

    Shazeer, "GLU Variants Improve Transformer", 2020.
    """
    check_geglu(x)
    kernel = kernel_for("geglu", x.dtype, training=not x.stop_gradient)
    if kernel is not None:
        return kernel(x)
    return _geglu(x)


@in_float32
def _geglu(x: Tensor) -> Tensor:
    return _GEGLU.apply(x)


class _GEGLU(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        value, gate = x.chunk(2, axis=-1)
        return F.gelu(gate).multiply_(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensor()
        value, gate = x.chunk(2, axis=-1)
        d_gate = _C_ops.gelu_grad(gate, _C_ops.multiply(value, grad), False)
        return paddle.concat([F.gelu(gate).multiply_(grad), d_gate], axis=-1)
