"""Normalisations: rms_norm, alone and after a residual addition, layer_norm and group_norm.

Statistics are taken in float32. A result has the dtype of the weights: where products are narrower than
parameters, norms are not.

Shapes: T rows, D model dim, C channels, `...` any leading axes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor, _C_ops
from paddle.autograd import PyLayer

from mix_core.ops.arguments import check_add_rms_norm, check_group_norm, check_layer_norm, check_rms_norm
from mix_core.ops.dispatch import kernel_for
from mix_core.ops.dtypes import cast, in_float32
from mix_core.ops.gradients import frozen, unless
from mix_core.ops.shapes import reshape


def rms_norm(x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """Scale each row by its root mean square: ``x / sqrt(mean(x^2) + eps) * weight``.

    x (..., D), weight (D,) -> (..., D). Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019.
    """
    check_rms_norm(x, weight_D)
    x = cast(x, weight_D.dtype)
    kernel = kernel_for("rms_norm", x.dtype, training=not (x.stop_gradient and weight_D.stop_gradient))
    if kernel is not None:
        return kernel(x, weight_D, eps)
    return _rms_norm(x, weight_D, eps)


@in_float32
def _rms_norm(x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    return _RMSNorm.apply(x, weight_D, eps)


class _RMSNorm(PyLayer):
    """Sums over a row, and factors of a row or a column, are products with a vector: Paddle's reductions and
    broadcasts run several times slower on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        D = x.shape[-1]
        x_TD, weight_1D = reshape(x, [-1, D]), reshape(weight_D, [1, D])
        mean_T1 = _C_ops.matmul(_C_ops.square(x_TD), _column(D, 1.0 / D, x.dtype), False, False)
        scale_T1 = mean_T1.scale_(1.0, eps).rsqrt_()
        ctx.save_for_backward(x_TD, weight_1D, scale_T1)
        ctx.shape, ctx.frozen = x.shape, frozen(x, weight_D)
        factors_TD = _C_ops.matmul(scale_T1, weight_1D, False, False)
        return reshape(factors_TD.multiply_(x_TD), x.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, weight_1D, scale_T1 = ctx.saved_tensor()
        D = x_TD.shape[1]
        grad_TD = reshape(grad, [-1, D])
        product_TD = _C_ops.multiply(grad_TD, x_TD)
        dweight_D = reshape(_C_ops.matmul(scale_T1, product_TD, True, False), [D])
        # d(scale)/dx = -scale^3 x / D, so the second term is x times a factor of the row
        dot_T1 = _C_ops.matmul(product_TD, weight_1D, False, True)
        factor_T1 = (scale_T1 * scale_T1 * scale_T1 * dot_T1).scale_(1.0 / D)
        dx_TD = _C_ops.matmul(scale_T1, weight_1D, False, False).multiply_(grad_TD)
        ones_D1 = _column(D, 1.0, x_TD.dtype)
        dx_TD.subtract_(_C_ops.matmul(factor_T1, ones_D1, False, True).multiply_(x_TD))
        return unless(ctx.frozen, reshape(dx_TD, ctx.shape), dweight_D)


@lru_cache(maxsize=64)
def _column(length: int, value: float, dtype: Any) -> Tensor:
    return paddle.full([length, 1], value, dtype)


def add_rms_norm(x: Tensor, branch: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``x + branch``, and the `rms_norm` of it: x and branch (..., D), weight (D,) -> two of (..., D).

    The sum has the dtype of x: a branch ends in a product, which may be asked to be narrower. The norm has
    the dtype of the weight.
    """
    check_add_rms_norm(x, branch, weight_D)
    branch = cast(branch, x.dtype)
    if x.dtype == weight_D.dtype:
        learning = not (x.stop_gradient and branch.stop_gradient and weight_D.stop_gradient)
        kernel = kernel_for("add_rms_norm", x.dtype, training=learning)
        if kernel is not None:
            return kernel(x, branch, weight_D, eps)
    total = x + branch
    return total, rms_norm(total, weight_D, eps)


def layer_norm(x: Tensor, weight_D: Tensor | None, bias_D: Tensor | None, eps: float) -> Tensor:
    """Subtract the row's mean, divide by its standard deviation, apply weight and bias (each may be None).

    x (..., D) -> (..., D). Ba, Kiros and Hinton, "Layer Normalization", 2016.
    """
    check_layer_norm(x, weight_D, bias_D)
    x = x if weight_D is None else cast(x, weight_D.dtype)
    kernel = kernel_for("layer_norm", x.dtype, training=not x.stop_gradient)
    if kernel is not None:
        return kernel(x, weight_D, bias_D, eps)
    return _layer_norm(x, weight_D, bias_D, eps)


@in_float32
def _layer_norm(x: Tensor, weight_D: Tensor | None, bias_D: Tensor | None, eps: float) -> Tensor:
    """Paddle's, with the weight beside it where it is frozen: its gradient of x is wrong then (3.3.1)."""
    shape = x.shape
    x = reshape(x, [1, -1]) if len(shape) == 1 else x
    if x.stop_gradient or (weight_D is not None and not weight_D.stop_gradient):
        return reshape(F.layer_norm(x, shape[-1], weight_D, bias_D, eps), shape)
    out = F.layer_norm(x, shape[-1], None, None, eps)
    out = out if weight_D is None else out * weight_D
    return reshape(out if bias_D is None else out + bias_D, shape)


def group_norm(
    x: Tensor,
    groups: int,
    weight_C: Tensor | None,
    bias_C: Tensor | None,
    eps: float,
    *,
    silu: bool = False,
) -> Tensor:
    """Normalise each group of channels of x (B, C, ...) by its own mean and variance.

    weight and bias (C,) may each be None. With `silu` the result is multiplied by its sigmoid. Wu and He,
    "Group Normalization", 2018.
    """
    check_group_norm(x, groups, weight_C, bias_C)
    x = x if weight_C is None else cast(x, weight_C.dtype)
    kernel = kernel_for("group_norm", x.dtype, training=not x.stop_gradient)
    if kernel is not None:
        return kernel(x, groups, weight_C, bias_C, eps, silu=silu)
    if weight_C is None and not x.stop_gradient:  # without one Paddle's gradient of x is wrong (3.3.1)
        weight_C = paddle.ones([x.shape[1]], x.dtype)
    out = in_float32(F.group_norm)(x, groups, eps, weight_C, bias_C)
    return F.silu(out) if silu else out
