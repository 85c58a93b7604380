"""Weights in 8 bits: of a model that only answers (`with_int8_weights`), or under adapters (`round_matrix`).

Each matrix becomes int8 with a float32 scale for each output (docs/operators.md, linear_int8), and the float
matrices are let go one by one. For answering those of the decoder's layers and of the output head do. Norms,
biases and the vision tower stay as they are: a token that is decoded does not read the tower, and a picture
is bound by its products.

Shapes: `...` any leading axes, I input features, O output features, T tokens, D model dim, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import paddle
from paddle import Tensor, nn

from mix_core import ops
from mix_core.errors import WeightsError
from mix_core.models.common.causal_lm import CausalLM
from mix_core.models.common.layers import Embedding, Linear
from mix_core.ops.dtypes import widened
from mix_core.ops.matmul_int8 import Int8Matrix, quantized


class Int8Linear(nn.Layer):
    """As `Linear` answers; weight (O, I) int8 is a buffer, as it cannot be trained."""

    def __init__(self, source: Linear, name: str) -> None:
        super().__init__()
        _hold(self, source.weight.numpy().T, name)
        self.bias = source.bias

    @property
    def matrix(self) -> Int8Matrix:
        return Int8Matrix(self.weight, self.scale)

    def forward(self, x: Tensor) -> Tensor:
        return ops.linear(x, self.matrix, self.bias)


class Int8Embedding(nn.Layer):
    """As `Embedding` answers, as a table of tokens and as an output head: weight (V, D) int8."""

    def __init__(self, source: Embedding, name: str) -> None:
        super().__init__()
        _hold(self, source.weight.numpy(), name)

    def forward(self, ids: Tensor) -> Tensor:
        rows_TD = paddle.gather(self.weight, ids).astype(self.scale.dtype)
        return rows_TD * paddle.gather(self.scale, ids).unsqueeze(-1)

    def logits(self, hidden_TD: Tensor) -> Tensor:
        return ops.linear_int8(hidden_TD, self.weight, self.scale)


def _hold(layer: nn.Layer, weight_OI: np.ndarray, name: str) -> None:
    steps_OI, scale_O = _rounded(weight_OI, name)
    layer.register_buffer("weight", paddle.to_tensor(steps_OI))
    layer.register_buffer("scale", paddle.to_tensor(scale_O))


def _rounded(weight_OI: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        return quantized(weight_OI)
    except ValueError as error:
        raise WeightsError(f"{name} cannot be rounded to int8: {error}") from None


def round_matrix(layer: Linear, name: str) -> None:
    """Keep a map's frozen matrix in 8 bits, from which gradients still reach its input.

    The map's adapters and bias stay as they are. Dettmers et al., "QLoRA: Efficient Finetuning of Quantized
    LLMs", 2023, with 8 bits and a scale for each output. Raises WeightsError for numbers that are not finite.
    """
    steps_OI, scale_O = _rounded(widened(layer.weight).numpy().T, name)
    layer.weight = None
    layer.rounded = Int8Matrix(paddle.to_tensor(steps_OI), paddle.to_tensor(scale_O))


def with_int8_weights(model: CausalLM) -> None:
    """Round the decoder's matrices and the head. The model then answers only: it cannot be trained or saved.

    Raises WeightsError for a matrix with numbers that are not finite.
    """
    for parent, name, path in list(_matrices(model)):
        layer = getattr(parent, name)
        kind = Int8Linear if isinstance(layer, Linear) else Int8Embedding
        setattr(parent, name, kind(layer, f"{path}.weight"))


def _matrices(model: CausalLM) -> Iterator[tuple[nn.Layer, str, str]]:
    """(parent, attribute, path) of the maps in the decoder's layers, and of the head.

    An untied table of tokens stays: it is read one row a token.
    """
    for path, parent in model.model.named_sublayers(prefix="model", include_self=True):
        for name, layer in parent.named_children():
            if isinstance(layer, Linear):
                yield parent, name, f"{path}.{name}"
    if model.lm_head is None:
        yield model.model, "embed_tokens", "model.embed_tokens"
    else:
        yield model, "lm_head", "lm_head"
