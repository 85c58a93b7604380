"""Several linear maps in one call: the three of an attention block, and the gated feed-forward block.

Where a device has no kernel for the whole, its kernels for the parts serve.

Shapes: D model dim, F feed-forward width, I and O input and output features, `...` any leading axes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from paddle import Tensor

from mix_core.ops.activations import swiglu
from mix_core.ops.arguments import check_gated_mlp, check_qkv
from mix_core.ops.dispatch import kernel_for
from mix_core.ops.dtypes import for_product, product_dtype, products_inside
from mix_core.ops.low_rank import AdaptedMatrix, Matrix, base_of
from mix_core.ops.matmul import adapted, linear

Three = tuple[Tensor, Tensor, Tensor]
Matrices = tuple[Matrix, Matrix, Matrix]


def qkv(x: Tensor, weights: Matrices, biases: Three | None = None) -> Three:
    """Queries, keys and values of x (..., I): ``x @ weight + bias`` with each weight (I, O), bias (O,)."""
    if _any_adapted(weights):
        bases = tuple(base_of(weight) for weight in weights)
        outs = qkv(x, bases, biases)
        q, k, v = (adapted(x, *row) for row in zip(outs, weights, biases or (None, None, None)))
        return q, k, v
    if _plain(weights):
        check_qkv(x, weights, biases)
        kernel = _kernel("qkv", x, weights, biases)
        if kernel is not None:
            x, *parameters = for_product(x, *weights, *(biases or ()))
            return kernel(x, parameters[:3], parameters[3:] or None)
    q, k, v = (linear(x, w, b) for w, b in zip(weights, biases or (None, None, None)))
    return q, k, v


def gated_mlp(x: Tensor, weights: Matrices, biases: Three | None = None) -> Tensor:
    """``(silu(x @ gate) * (x @ up)) @ down``, biases added to each product, x (..., D) -> (..., O).

    weights and biases are those of gate (D, F), up (D, F) and down (F, O), in this order. Shazeer,
    "GLU Variants Improve Transformer", 2020.
    """
    if _plain(weights):
        check_gated_mlp(x, weights, biases)
        kernel = _kernel("gated_mlp", x, weights, biases)
        if kernel is not None:
            x, *parameters = for_product(x, *weights, *(biases or ()))
            return kernel(x, parameters[:3], parameters[3:] or None)
    gate, up, down = zip(weights, biases or (None, None, None))
    return linear(swiglu(linear(x, *gate), linear(x, *up)), *down)


def _any_adapted(weights: Matrices) -> bool:
    return any(isinstance(weight, AdaptedMatrix) for weight in weights)


def _plain(weights: Matrices) -> bool:
    return all(isinstance(weight, Tensor) for weight in weights)


def _kernel(op: str, x: Tensor, weights: Three, biases: Three | None) -> Callable[..., Any] | None:
    training = not all(one.stop_gradient for one in (x, *weights, *(biases or ())))
    return kernel_for(op, product_dtype(x), training=training, products=products_inside())
