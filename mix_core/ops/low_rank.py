"""The weight of a linear map that an adapter changes: what `linear`, `qkv`, `gated_mlp` and `decode_layers`
take in place of a tensor.

Shapes: I input features, O output features, R rank, `...` any leading axes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from paddle import Tensor

from mix_core.ops.matmul_int8 import Int8Matrix


@dataclass(frozen=True, eq=False)
class AdaptedMatrix:
    """``(base + scale * down @ up) * gain`` without ever making that matrix.

    A frozen base so costs no gradient of its own size. Hu et al., "LoRA: Low-Rank Adaptation of Large
    Language Models", 2021; with a gain Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", 2024.
    """

    base: Tensor | Int8Matrix
    """(I, O)."""
    down_IR: Tensor
    up_RO: Tensor
    scale: float
    gain_O: Tensor | None = None
    """Factor on each output, the bias's share left out; None: 1."""
    dropped: Callable[[Tensor], Tensor] | None = None
    """What becomes of the input (..., I) of `down` in training; None: nothing."""


Matrix = Tensor | Int8Matrix | AdaptedMatrix
"""A weight of `linear`: trainable, rounded for answering, or with an adapter."""


def base_of(matrix: Matrix) -> Tensor | Int8Matrix:
    """The matrix without its adapter."""
    return matrix.base if isinstance(matrix, AdaptedMatrix) else matrix
