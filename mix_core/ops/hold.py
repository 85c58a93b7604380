"""Weights that stay as they are while a model answers: a device may keep a form of its own of them.

Shapes: I input features, O output features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from paddle import Tensor

from mix_core.ops.arguments import check_held
from mix_core.ops.dispatch import kernel_for

Release = Callable[[], None]


def hold_weights(weights: Sequence[Tensor]) -> Release:
    """Say that these weights (I, O) of linear maps will not change until what comes back is called.

    Results stay the same; products of many rows may be faster, and memory more. A device may hold none.
    Raises ValueError for what is no matrix.
    """
    check_held(weights)
    kernel = kernel_for("hold_weights", weights[0].dtype) if weights else None
    return _nothing if kernel is None else kernel(weights)


def _nothing() -> None:
    """The reference holds nothing."""
