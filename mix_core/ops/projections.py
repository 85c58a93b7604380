"""Several linear maps in one call: the three of an attention block, and the gated feed-forward block.

Where a device has no kernel for the whole, its kernels for the parts serve.

Shapes: D model dim, F feed-forward width, I and O input and output features, `...` any leading axes.
"""

from __future__ import annotations

from paddle import Tensor

from mix_core.ops.activations import swiglu
from mix_core.ops.arguments import check_gated_mlp, check_qkv
from mix_core.ops.dispatch import kernel_for
from mix_core.ops.dtypes import for_product, product_dtype, products_inside
from mix_core.ops.matmul import linear

Three = tuple[Tensor, Tensor, Tensor]


def qkv(x: Tensor, weights: Three, biases: Three | None = None) -> Three:
    """Queries, keys and values of x (..., I): ``x @ weight + bias`` with each weight (I, O), bias (O,)."""
    check_qkv(x, weights, biases)
    training = not all(one.stop_gradient for one in (x, *weights, *(biases or ())))
    kernel = kernel_for("qkv", product_dtype(x), training=training, products=products_inside())
    if kernel is not None:
        x, *parameters = for_product(x, *weights, *(biases or ()))
        return kernel(x, parameters[:3], parameters[3:] or None)
    q, k, v = (linear(x, w, b) for w, b in zip(weights, biases or (None, None, None)))
    return q, k, v


def gated_mlp(x: Tensor, weights: Three, biases: Three | None = None) -> Tensor:
    """``(silu(x @ gate) * (x @ up)) @ down``, biases added to each product, x (..., D) -> (..., O).

    weights and biases are those of gate (D, F), up (D, F) and down (F, O), in this order. Shazeer,
    "GLU Variants Improve Transformer", 2020.
    """
    check_gated_mlp(x, weights, biases)
    training = not all(one.stop_gradient for one in (x, *weights, *(biases or ())))
    kernel = kernel_for("gated_mlp", product_dtype(x), training=training, products=products_inside())
    if kernel is not None:
        x, *parameters = for_product(x, *weights, *(biases or ()))
        return kernel(x, parameters[:3], parameters[3:] or None)
    gate, up, down = zip(weights, biases or (None, None, None))
    return linear(swiglu(linear(x, *gate), linear(x, *up)), *down)
