"""The linear map, in Paddle's layout of weights, with adapters too, and the output head, in the embedding's.

Shapes: T rows, I input features, O output features, D model dim, V vocabulary, `...` any leading axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import paddle
from paddle import Tensor, _C_ops
from paddle.autograd import PyLayer

from mix_core.ops.arguments import check_adapted_linear, check_head_logits, check_linear
from mix_core.ops.dispatch import kernel_for
from mix_core.ops.dtypes import cast, for_product, products_inside
from mix_core.ops.gradients import frozen
from mix_core.ops.low_rank import AdaptedMatrix, LowRank, Matrix, base_of, fuses
from mix_core.ops.matmul_int8 import Int8Matrix, linear_int8
from mix_core.ops.shapes import reshape


def linear(x: Tensor, weight_IO: Matrix, bias_O: Tensor | None = None) -> Tensor:
    """``x @ weight + bias``: x (..., I), weight (I, O), bias (O,) or None -> (..., O)."""
    if isinstance(weight_IO, AdaptedMatrix):
        if not fuses((weight_IO,)):
            return adapted(x, linear(x, base_of(weight_IO), bias_O), weight_IO, bias_O)
        biases = None if bias_O is None else (bias_O,)
        (out,) = adapted_linear(x, (weight_IO.base,), biases, (weight_IO.low_rank,))
        return gained(out, weight_IO, bias_O)
    if isinstance(weight_IO, Int8Matrix):
        x, bias_O = for_product(x, bias_O)
        if bias_O is not None and not bias_O.stop_gradient:
            return linear_int8(x, weight_IO.steps_OI, weight_IO.scale_O) + bias_O
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


def adapted_linear(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor] | None,
    adapters: Sequence[LowRank | None],
) -> tuple[Tensor, ...]:
    """``x @ (weight + scale * down @ up) + bias`` for one to three maps of one x (..., I), each (..., O).

    A map without an adapter has None. docs/operators.md has the contract.
    """
    matrices = [matrix for one in adapters if one is not None for matrix in (one.down_IR, one.up_RO)]
    count = len(weights)
    x, *tensors = for_product(x, *weights, *(biases or ()), *matrices)
    rest = iter(tensors[len(tensors) - len(matrices) :])
    adapters = tuple(one and LowRank(next(rest), next(rest), one.scale) for one in adapters)
    weights, biases = tuple(tensors[:count]), biases and tuple(tensors[count : 2 * count])
    check_adapted_linear(x, weights, biases, adapters)
    training = not (x.stop_gradient and all(tensor.stop_gradient for tensor in tensors))
    kernel = kernel_for("adapted_linear", x.dtype, training=training, products=products_inside())
    if kernel is not None:
        return tuple(kernel(x, weights, biases, adapters))
    outs = []
    for weight, bias, one in zip(weights, biases or [None] * count, adapters):
        out = linear(x, weight, bias)
        outs.append(out if one is None else _raised(out, linear(x, one.down_IR), one))
    return tuple(outs)


def _raised(out: Tensor, low: Tensor, low_rank: LowRank) -> Tensor:
    """The map's result with what the adapter makes of ``low = x @ down`` (..., R)."""
    # in place: autograd would keep both terms of a sum
    return out.add_(linear(low * low_rank.scale, low_rank.up_RO))


def adapted(x: Tensor, out: Tensor, matrix: Matrix, bias_O: Tensor | None = None) -> Tensor:
    """What an adapter makes of ``out = x @ base + bias`` (..., O); `out` itself where the matrix has none."""
    if not isinstance(matrix, AdaptedMatrix):
        return out
    low = linear(x, matrix.down_IR) if matrix.low is None else matrix.low(x)
    return gained(_raised(out, low, matrix.low_rank), matrix, bias_O)


def gained(out: Tensor, matrix: Matrix, bias_O: Tensor | None = None) -> Tensor:
    """The map's result (..., O) times its adapter's gain, if that has one."""
    if not isinstance(matrix, AdaptedMatrix) or matrix.gain_O is None:
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
