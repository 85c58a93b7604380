"""The linear map, in Paddle's layout of weights, and the output head, in the embedding's.

Shapes: T rows, I input features, O output features, D model dim, V vocabulary, `...` any leading axes.
"""

from __future__ import annotations

from typing import Any

import paddle
from paddle import Tensor, _C_ops
from paddle.autograd import PyLayer

from mix_core.ops.arguments import check_head_logits, check_linear
from mix_core.ops.dispatch import kernel_for
from mix_core.ops.dtypes import cast, for_product, products_inside
from mix_core.ops.gradients import frozen
from mix_core.ops.low_rank import AdaptedMatrix, Matrix, base_of
from mix_core.ops.matmul_int8 import Int8Matrix, linear_int8
from mix_core.ops.shapes import reshape


def linear(x: Tensor, weight_IO: Matrix, bias_O: Tensor | None = None) -> Tensor:
    """``x @ weight + bias``: x (..., I), weight (I, O), bias (O,) or None -> (..., O)."""
    if isinstance(weight_IO, AdaptedMatrix):
        return adapted(x, linear(x, base_of(weight_IO), bias_O), weight_IO, bias_O)
    if isinstance(weight_IO, Int8Matrix):
        return linear_int8(x, weight_IO.steps_OI, weight_IO.scale_O, bias_O)
    x, weight_IO, bias_O = for_product(x, weight_IO, bias_O)
    check_linear(x, weight_IO, bias_O)
    training = not (x.stop_gradient and weight_IO.stop_gradient)
    kernel = kernel_for("linear", x.dtype, training=training, products=products_inside())
    if kernel is not None:
        return kernel(x, weight_IO, bias_O)
    if bias_O is None:
        return _C_ops.matmul(x, weight_IO, False, False)
    return _Affine.apply(x, weight_IO, bias_O)


def adapted(x: Tensor, out: Tensor, matrix: Matrix, bias_O: Tensor | None = None) -> Tensor:
    """What an adapter makes of ``out = x @ base + bias`` (..., O); `out` itself where the matrix has none."""
    if not isinstance(matrix, AdaptedMatrix):
        return out
    (x,) = for_product(x if matrix.dropped is None else matrix.dropped(x))
    # in place: autograd would keep both terms of a sum
    out = out.add_(linear(linear(x, matrix.down_IR) * matrix.scale, matrix.up_RO))
    if matrix.gain_O is None:
        return out
    gain_O = cast(matrix.gain_O, out.dtype)
    # the bias is in `out` already, because a fused product adds it; the gain is not for it
    return out * gain_O if bias_O is None else out * gain_O + cast(bias_O, out.dtype) * (1.0 - gain_O)


def head_logits(hidden_TD: Tensor, weight_VD: Tensor) -> Tensor:
    """``hidden @ weight.T``, (T, D) and (V, D) -> (T, V)."""
    check_head_logits(hidden_TD, weight_VD)
    training = not (hidden_TD.stop_gradient and weight_VD.stop_gradient)
    kernel = kernel_for("head_logits", hidden_TD.dtype, training=training)
    if kernel is not None:
        return kernel(hidden_TD, weight_VD)
    return _C_ops.matmul(hidden_TD, weight_VD, False, True)


class _Affine(PyLayer):
    """Sums the bias's gradient over rows by a product: Paddle's sum costs several times as much on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_IO: Tensor, bias_O: Tensor) -> Tensor:
        inputs, outputs = weight_IO.shape
        x_TI = reshape(x, [-1, inputs])
        ctx.save_for_backward(x_TI, weight_IO)
        ctx.shape, ctx.frozen = x.shape, frozen(x, weight_IO, bias_O)
        product_TO = _C_ops.matmul(x_TI, weight_IO, False, False).add_(bias_O)
        return reshape(product_TO, [*x.shape[:-1], outputs])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x_TI, weight_IO = ctx.saved_tensor()
        x_frozen, weight_frozen, bias_frozen = ctx.frozen
        outputs = weight_IO.shape[1]
        grad_TO = reshape(grad, [-1, outputs])
        dx = dweight = dbias = None
        if not x_frozen:
            dx = reshape(_C_ops.matmul(grad_TO, weight_IO, False, True), ctx.shape)
        if not weight_frozen:
            dweight = _C_ops.matmul(x_TI, grad_TO, True, False)
        if not bias_frozen:
            ones_1T = paddle.ones([1, grad_TO.shape[0]], grad.dtype)
            dbias = reshape(_C_ops.matmul(ones_1T, grad_TO, False, False), [outputs])
        return dx, dweight, dbias
