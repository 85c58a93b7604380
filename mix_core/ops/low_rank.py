"""The weight of a linear map that an adapter changes: what `linear`, `qkv`, `gated_mlp` and `decode_layers`
take in place of a tensor.

Shapes: I input features, O output features, R rank, `...` any leading axes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from paddle import Tensor

from mix_core.ops.matmul_int8 import Int8Matrix


class LowRank(NamedTuple):
    """``scale * down @ up``, which an operator adds to a matrix (I, O)."""

    down_IR: Tensor
    up_RO: Tensor
    scale: float


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
    low: Callable[[Tensor], Tensor] | None = None
    """What makes (..., R) of the input (..., I) in training; None: a product with `down`."""

    @property
    def low_rank(self) -> LowRank:
        return LowRank(self.down_IR, self.up_RO, self.scale)


Matrix = Tensor | Int8Matrix | AdaptedMatrix
"""A weight of `linear`: trainable, rounded to 8 bits, or with an adapter."""


def base_of(matrix: Matrix) -> Tensor | Int8Matrix:
    """The matrix without its adapter."""
    return matrix.base if isinstance(matrix, AdaptedMatrix) else matrix


def low_rank_of(matrix: Matrix) -> LowRank | None:
    """What the matrix's adapter adds, if it has one."""
    return matrix.low_rank if isinstance(matrix, AdaptedMatrix) else None


def fuses(matrices: Sequence[Matrix]) -> bool:
    """Whether one operator takes these maps of one input: some have adapters, all see the same x.

    An operator takes no base in 8 bits.
    """
    adapted = [matrix for matrix in matrices if isinstance(matrix, AdaptedMatrix)]
    plain = all(isinstance(base_of(matrix), Tensor) for matrix in matrices)
    return bool(adapted) and plain and all(matrix.low is None for matrix in adapted)
