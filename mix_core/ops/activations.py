"""Activations: swiglu and the forms of gelu.

Shapes: `...` any axes, F feed-forward width.
"""

from __future__ import annotations

import paddle.nn.functional as F
from paddle import Tensor

from mix_core.ops.dispatch import kernel_for


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """``silu(gate) * up``, both (..., F). Shazeer, "GLU Variants Improve Transformer", 2020."""
    kernel = kernel_for("swiglu", gate.dtype, training=not gate.stop_gradient)
    if kernel is not None:
        return kernel(gate, up)
    return F.silu(gate) * up


def gelu(x: Tensor, form: str = "erf") -> Tensor:
    """Gaussian error linear unit: form "erf" (exact), "tanh" or "quick" (CLIP's ``x * sigmoid(1.702 x)``)."""
    kernel = kernel_for("gelu", x.dtype, training=not x.stop_gradient, size_class=form)
    if kernel is not None:
        return kernel(x, form)
    if form == "erf":
        return F.gelu(x)
    if form == "tanh":
        return F.gelu(x, approximate=True)
    if form == "quick":
        return x * F.sigmoid(1.702 * x)
    raise ValueError(f"gelu has the forms erf, tanh and quick, got {form!r}")
