"""The linear map, in Paddle's layout of weights.

Shapes: T rows, I input features, O output features, `...` any leading axes.
"""

from __future__ import annotations

from typing import Any

import paddle
from paddle import Tensor, _C_ops
from paddle.autograd import PyLayer

from mix_core.ops.dispatch import kernel_for


def linear(x: Tensor, weight_IO: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """``x @ weight + bias``: x (..., I), weight (I, O), bias (O,) or None -> (..., O)."""
    kernel = kernel_for("linear", x.dtype, training=not (x.stop_gradient and weight_IO.stop_gradient))
    if kernel is not None:
        return kernel(x, weight_IO, bias_O)
    if bias_O is None:
        return _C_ops.matmul(x, weight_IO, False, False)
    return _Affine.apply(x, weight_IO, bias_O, x.stop_gradient, weight_IO.stop_gradient)


class _Affine(PyLayer):
    """Adds the bias within the product and sums its gradient by one: Paddle's broadcast and its sum over rows
    cost as much as the product itself on a CPU."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight_IO: Tensor, bias_O: Tensor, x_fixed: bool, weight_fixed: bool
    ) -> Tensor:
        inputs, outputs = weight_IO.shape
        x_TI = x.reshape([-1, inputs])
        ctx.save_for_backward(x_TI, weight_IO)
        ctx.shape, ctx.x_fixed, ctx.weight_fixed = x.shape, x_fixed, weight_fixed
        product_TO = _C_ops.addmm(bias_O.reshape([1, outputs]), x_TI, weight_IO, 1.0, 1.0)
        return product_TO.reshape([*x.shape[:-1], outputs])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor]:
        x_TI, weight_IO = ctx.saved_tensor()
        outputs = weight_IO.shape[1]
        grad_TO = grad.reshape([-1, outputs])
        ones_1T = paddle.ones([1, grad_TO.shape[0]], grad.dtype)
        dx = None if ctx.x_fixed else _C_ops.matmul(grad_TO, weight_IO, False, True).reshape(ctx.shape)
        dweight = None if ctx.weight_fixed else _C_ops.matmul(x_TI, grad_TO, True, False)
        return dx, dweight, _C_ops.matmul(ones_1T, grad_TO, False, False).reshape([outputs])
