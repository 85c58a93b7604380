"""The linear map, in Paddle's layout of weights.

Shapes: I input features, O output features, `...` any leading axes.
"""

from __future__ import annotations

from paddle import Tensor, _C_ops

from mix_core.ops.dispatch import kernel_for


def linear(x: Tensor, weight_IO: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """``x @ weight + bias``: x (..., I), weight (I, O), bias (O,) or None -> (..., O)."""
    kernel = kernel_for("linear", x.dtype, training=not weight_IO.stop_gradient)
    if kernel is not None:
        return kernel(x, weight_IO, bias_O)
    product = _C_ops.matmul(x, weight_IO, False, False)
    return product if bias_O is None else _C_ops.add(product, bias_O)
