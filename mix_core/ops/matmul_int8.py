"""The linear map with int8 weights: a quarter of the bytes, for answering and under adapters.

Shapes: I input features, O output features, `...` any leading axes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import paddle
from paddle import Tensor, _C_ops
from paddle.autograd import PyLayer

from mix_core.ops.arguments import check_linear_int8
from mix_core.ops.dispatch import kernel_for
from mix_core.ops.dtypes import in_float32, products_inside

LARGEST = 127
"""-128 is not used, so that a weight and its negative have the same precision."""
MAX_WIDENED = 1 << 24
"""Weights that the reference holds widened at a time."""


class Int8Matrix(NamedTuple):
    """A matrix of a linear map, rounded by `quantized`."""

    steps_OI: Tensor
    scale_O: Tensor


def quantized(weight_OI: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Round each row to 8 bits -> (int8 (O, I), float32 scale (O,)) with ``weight ~ int8 * scale``.

    The scale of a row is its largest magnitude / 127; a row of zeros has scale 0. Raises ValueError for
    numbers that are not finite.
    """
    largest_O = np.abs(weight_OI).max(axis=1).astype(np.float32)
    if not np.isfinite(largest_O).all():
        raise ValueError(f"row {int(np.argmin(np.isfinite(largest_O)))} holds numbers that are not finite")
    scale_O = largest_O / np.float32(LARGEST)
    divisor_O = np.where(scale_O > 0, scale_O, np.float32(1))
    steps_OI = np.rint(weight_OI / divisor_O[:, None])
    return np.clip(steps_OI, -LARGEST, LARGEST).astype(np.int8), scale_O


def linear_int8(x: Tensor, weight_OI: Tensor, scale_O: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """``(x @ weight.T) * scale + bias``: x (..., I), weight (O, I) int8, scale (O,) float32 -> (..., O).

    Gradient: x alone. docs/operators.md has the contract.
    """
    check_linear_int8(x, weight_OI, scale_O, bias_O)
    kernel = kernel_for("linear_int8", x.dtype, training=not x.stop_gradient, products=products_inside())
    if kernel is not None:
        return kernel(x, weight_OI, scale_O, bias_O)
    return _Int8Map.apply(x, weight_OI, scale_O, bias_O)


class _Int8Map(PyLayer):
    """Keeps no floating matrix for going back: blocks are widened again there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_OI: Tensor, scale_O: Tensor, bias_O: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight_OI, scale_O)
        ctx.frozen = (None, None) if bias_O is None else (None, None, None)
        return _reference(x, weight_OI, scale_O, bias_O)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _back(grad, *ctx.saved_tensor()), *ctx.frozen


def _blocks(weight_OI: Tensor) -> list[slice]:
    """Rows of the matrix that are widened at a time."""
    outputs, inputs = weight_OI.shape
    rows = max(1, MAX_WIDENED // inputs)
    return [slice(begin, begin + rows) for begin in range(0, outputs, rows)]


def _widened(weight_OI: Tensor, rows: slice, dtype: Any) -> Tensor:
    whole = rows.stop >= weight_OI.shape[0] and rows.start == 0
    return (weight_OI if whole else weight_OI[rows]).astype(dtype)


@in_float32
def _reference(x: Tensor, weight_OI: Tensor, scale_O: Tensor, bias_O: Tensor | None) -> Tensor:
    blocks = (_widened(weight_OI, rows, x.dtype) for rows in _blocks(weight_OI))
    products = [_C_ops.matmul(x, block_RI, False, True) for block_RI in blocks]
    product = products[0] if len(products) == 1 else paddle.concat(products, axis=-1)
    return product * scale_O if bias_O is None else product * scale_O + bias_O


@in_float32
def _back(grad: Tensor, weight_OI: Tensor, scale_O: Tensor) -> Tensor:
    scaled, blocks = grad * scale_O, _blocks(weight_OI)
    if len(blocks) == 1:
        return _C_ops.matmul(scaled, _widened(weight_OI, blocks[0], scaled.dtype), False, False)
    total: Tensor | None = None
    for rows in blocks:
        part = _C_ops.matmul(scaled[..., rows], _widened(weight_OI, rows, scaled.dtype), False, False)
        total = part if total is None else total.add_(part)
    return total
