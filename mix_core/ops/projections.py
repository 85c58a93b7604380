"""Several linear maps in one call: the three of an attention block, and the gated feed-forward block.

Where a device has no kernel for the whole, its kernels for the parts serve.

Shapes: D model dim, F feed-forward width, I and O input and output features, `...` any leading axes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from paddle import Tensor

from mix_core.ops.activations import swiglu
from mix_core.ops.arguments import check_adapter, check_gated_mlp, check_qkv
from mix_core.ops.dispatch import kernel_for
from mix_core.ops.dtypes import for_product, product_dtype, products_inside
from mix_core.ops.low_rank import AdaptedMatrix, LowRank, Matrix, base_of, fuses, low_rank_of
from mix_core.ops.matmul import adapted, adapted_linear, gained, linear

Three = tuple[Tensor, Tensor, Tensor]
Matrices = tuple[Matrix, Matrix, Matrix]


def qkv(x: Tensor, weights: Matrices, biases: Three | None = None) -> Three:
    """Queries, keys and values of x (..., I): ``x @ weight + bias`` with each weight (I, O), bias (O,)."""
    each = biases or (None, None, None)
    if fuses(weights):
        bases = tuple(base_of(weight) for weight in weights)
        outs = adapted_linear(x, bases, biases, tuple(low_rank_of(weight) for weight in weights))
        q, k, v = (gained(*row) for row in zip(outs, weights, each))
        return q, k, v
    if _any_adapted(weights):
        outs = qkv(x, tuple(base_of(weight) for weight in weights), biases)
        q, k, v = (adapted(x, *row) for row in zip(outs, weights, each))
        return q, k, v
    if _plain(weights):
        check_qkv(x, weights, biases)
        kernel = _kernel("qkv", x, weights, biases)
        if kernel is not None:
            x, *parameters = for_product(x, *weights, *(biases or ()))
            return kernel(x, parameters[:3], parameters[3:] or None)
    q, k, v = (linear(x, w, b) for w, b in zip(weights, each))
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
    if fuses(weights) and all(getattr(weight, "gain_O", None) is None for weight in weights):
        adapters = tuple(low_rank_of(weight) for weight in weights)
        return adapted_mlp(x, tuple(base_of(weight) for weight in weights), biases, adapters)
    gate, up, down = zip(weights, biases or (None, None, None))
    return linear(swiglu(linear(x, *gate), linear(x, *up)), *down)


def adapted_mlp(
    x: Tensor, weights: Three, biases: Three | None, adapters: tuple[LowRank | None, ...]
) -> Tensor:
    """`gated_mlp` whose maps have adapters: each weight is ``weight + scale * down @ up``; None: as it is.

    docs/operators.md has the contract.
    """
    matrices = [matrix for one in adapters if one is not None for matrix in (one.down_IR, one.up_RO)]
    check_gated_mlp(x, weights, biases)
    for weight, one in zip(weights, adapters):
        check_adapter("adapted_mlp", weight, one)
    parameters = (*weights, *(biases or ()), *matrices)
    training = not all(one.stop_gradient for one in (x, *parameters))
    kernel = kernel_for("adapted_mlp", product_dtype(x), training=training, products=products_inside())
    if kernel is not None:
        x, *narrowed = for_product(x, *parameters)
        rest = iter(narrowed[len(narrowed) - len(matrices) :])
        adapters = tuple(one and LowRank(next(rest), next(rest), one.scale) for one in adapters)
        return kernel(x, tuple(narrowed[:3]), biases and tuple(narrowed[3:6]), adapters)
    gate_bias, up_bias, down_bias = biases or (None, None, None)
    gate_and_up = biases and (gate_bias, up_bias)
    gated, raised = adapted_linear(x, weights[:2], gate_and_up, adapters[:2])
    h = swiglu(gated, raised)
    (out,) = adapted_linear(h, weights[2:], biases and (down_bias,), adapters[2:])
    return out


def _any_adapted(weights: Matrices) -> bool:
    return any(isinstance(weight, AdaptedMatrix) for weight in weights)


def _plain(weights: Matrices) -> bool:
    return all(isinstance(weight, Tensor) for weight in weights)


def _kernel(op: str, x: Tensor, weights: Three, biases: Three | None) -> Callable[..., Any] | None:
    training = not all(one.stop_gradient for one in (x, *weights, *(biases or ())))
    return kernel_for(op, product_dtype(x), training=training, products=products_inside())
