"""Normalisations: rms_norm, layer_norm and group_norm. Statistics are taken in float32.

Shapes: D model dim, C channels, `...` any leading axes.
"""

from __future__ import annotations

import paddle
from paddle import Tensor

from mix_core.ops.dispatch import kernel_for


def rms_norm(x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """Scale each row by its root mean square: ``x / sqrt(mean(x^2) + eps) * weight``.

    x (..., D), weight (D,) -> (..., D). Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019.
    """
    kernel = kernel_for("rms_norm", x.dtype, training=not x.stop_gradient)
    if kernel is not None:
        return kernel(x, weight_D, eps)
    scale = paddle.rsqrt(paddle.mean(paddle.square(x), axis=-1, keepdim=True) + eps)
    return x * scale * weight_D


def layer_norm(x: Tensor, weight_D: Tensor | None, bias_D: Tensor | None, eps: float) -> Tensor:
    """Subtract the row's mean, divide by its standard deviation, apply weight and bias (each may be None)."""
    kernel = kernel_for("layer_norm", x.dtype, training=not x.stop_gradient)
    if kernel is not None:
        return kernel(x, weight_D, bias_D, eps)
    return paddle.nn.functional.layer_norm(x, x.shape[-1], weight_D, bias_D, eps)


def group_norm(x: Tensor, groups: int, weight_C: Tensor | None, bias_C: Tensor | None, eps: float) -> Tensor:
    """Normalise each group of channels of x (B, C, ...) by its own mean and variance."""
    kernel = kernel_for("group_norm", x.dtype, training=not x.stop_gradient)
    if kernel is not None:
        return kernel(x, groups, weight_C, bias_C, eps)
    return paddle.nn.functional.group_norm(x, groups, eps, weight_C, bias_C)
