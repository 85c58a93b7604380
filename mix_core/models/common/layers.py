"""Blocks that the models share. A layer holds parameters and calls operators; it knows no device.

Shapes: `...` any leading axes, I input features, O output features, D model dim, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.nn.initializer import Constant

from mix_core import ops
from mix_core.models.common.embedding_noise import EmbeddingNoise
from mix_core.ops.dtypes import cast
from mix_core.ops.low_rank import Matrix
from mix_core.ops.matmul_int8 import Int8Matrix
from mix_core.ops.tied_embedding import tied_embedding


def residual(x: Tensor, branch: Tensor) -> Tensor:
    """``x + branch`` in the dtype of x: a branch ends in a product, which may be asked to be narrower."""
    return x + cast(branch, x.dtype)


class Linear(nn.Layer):
    """Weight (I, O) as Paddle has it; published files hold (O, I), and the weights adapter turns it."""

    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__()
        self.weight = self.create_parameter([inputs, outputs], default_initializer=Constant(0.0))
        self.bias = self.create_parameter([outputs], is_bias=True) if bias else None
        self.inputs, self.outputs = inputs, outputs
        self.rounded: Int8Matrix | None = None
        """What stands in for the weight, which is None then, under an adapter (int8.py)."""
        self.adapters = None
        """What changes the map, if anything does (lora.py)."""
        self.across: Any = None
        """The ranks that have its other parts, where it is divided (models/parallel)."""

    @property
    def base(self) -> Tensor | Int8Matrix:
        """The matrix without adapters."""
        return self.weight if self.rounded is None else self.rounded

    @property
    def matrix(self) -> Matrix:
        """What `ops.linear` takes as weight: with the adapter in use, where there is one."""
        return self.base if self.adapters is None else self.adapters.matrix(self)

    def forward(self, x: Tensor) -> Tensor:
        return ops.linear(x, self.matrix, self.bias)


def weights_and_biases(maps: tuple[Linear, ...]) -> tuple[tuple[Matrix, ...], tuple[Tensor, ...] | None]:
    """Of several maps; None in place of the biases where they have none."""
    weights = tuple(one.matrix for one in maps)
    return weights, None if maps[0].bias is None else tuple(one.bias for one in maps)


class RMSNorm(nn.Layer):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = self.create_parameter([width], default_initializer=Constant(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return ops.rms_norm(x, self.weight, self.eps)

    def after_residual(self, x: Tensor, branch: Tensor) -> tuple[Tensor, Tensor]:
        """The `residual` sum of both (..., D), and the norm of it."""
        return ops.add_rms_norm(x, branch, self.weight, self.eps)


class LayerNorm(nn.Layer):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = self.create_parameter([width], default_initializer=Constant(1.0))
        self.bias = self.create_parameter([width], is_bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return ops.layer_norm(x, self.weight, self.bias, self.eps)


class Embedding(nn.Layer):
    """A row for each token: weight (V, D). The output head has the same layout."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.weight = self.create_parameter([rows, width], default_initializer=Constant(0.0))
        self.noise: EmbeddingNoise | None = None
        """Added in training, where it is asked for."""
        self.is_head = False
        """Whether the output head has this weight, too."""
        self._given: list[Tensor] = []

    def forward(self, ids: Tensor) -> Tensor:
        x = self.rows(ids)
        return self.noise(x) if self.training and self.noise is not None else x

    def rows(self, ids: Tensor) -> Tensor:
        """The tokens' rows (..., D)."""
        # narrow rows cannot be added up on two of three devices
        wide = self.weight.dtype == paddle.float32
        if self.is_head and self.training and wide and not self.weight.stop_gradient:
            x, head_VD = tied_embedding(ids, self.weight)
            self._given = [head_VD]
        else:
            self._given = []
            x = paddle.nn.functional.embedding(ids, self.weight)
        return x

    def as_head(self) -> Tensor:
        """The weight for the head's loss (V, D); one gradient serves both uses within a forward pass."""
        return self._given.pop() if self._given else self.weight

    def grow(self, rows: int) -> None:
        """Have so many rows; the new ones hold zeros."""
        old = self.weight
        self.weight = self.create_parameter(
            [rows, old.shape[1]], dtype=old.dtype, default_initializer=Constant(0.0)
        )
        missing = paddle.zeros([rows - old.shape[0], old.shape[1]], dtype=old.dtype)
        self.weight.set_value(paddle.concat([old, missing]))

    def cross_entropy(self, hidden_RD: Tensor, labels_R: np.ndarray) -> tuple[Tensor, int]:
        """Of the head: the sum over the labels (), and how many there are."""
        return ops.linear_cross_entropy(hidden_RD, self.as_head(), labels_R)

    def logits(self, hidden_TD: Tensor) -> Tensor:
        return ops.head_logits(hidden_TD, self.weight)


class MLP(nn.Layer):
    """``fc2(gelu(fc1(x)))``; `form` is one of `ops.gelu`'s."""

    def __init__(self, width: int, inner: int, form: str = "erf") -> None:
        super().__init__()
        self.form = form
        self.fc1 = Linear(width, inner, bias=True)
        self.fc2 = Linear(inner, width, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(ops.gelu(self.fc1(x), self.form))


class GatedMLP(nn.Layer):
    """``down(silu(gate(x)) * up(x))``."""

    def __init__(self, width: int, inner: int, bias: bool) -> None:
        super().__init__()
        self.gate_proj = Linear(width, inner, bias)
        self.up_proj = Linear(width, inner, bias)
        self.down_proj = Linear(inner, width, bias)

    def forward(self, x: Tensor) -> Tensor:
        maps = (self.gate_proj, self.up_proj, self.down_proj)
        return ops.gated_mlp(x, *weights_and_biases(maps))
