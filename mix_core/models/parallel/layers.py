"""What stands in for layers that ranks share: each computes with its part, and a sum over ranks follows.

The parameters keep their names. Shapes: T tokens, V vocabulary, v words of this rank, D model dim.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.nn.initializer import Constant

from mix_core import ops
from mix_core.models.common.decoder import DecoderLayer, Positions, SelfAttention
from mix_core.models.common.layers import Embedding, GatedMLP, Linear, residual, weights_and_biases
from mix_core.models.common.parts import mark_part, mark_shared, row_part, whole_shape
from mix_core.models.common.tensor_plan import Division
from mix_core.models.parallel.across import Across
from mix_core.models.parallel.head_loss import divided_cross_entropy
from mix_core.ops.head_loss import check_labels


class SummedLinear(Linear):
    """A map of which each rank has some inputs; the bias is added once."""

    def __init__(self, whole: Linear, across: Across) -> None:
        nn.Layer.__init__(self)
        self.weight, self.bias = whole.weight, whole.bias
        self.inputs, self.outputs = whole.inputs, whole.outputs
        self.rounded, self.adapters, self.across = whole.rounded, whole.adapters, across

    def forward(self, x: Tensor) -> Tensor:
        out = self.across.summed(ops.linear(x, self.matrix, None))
        return out if self.bias is None else out + self.bias


class DividedAttention(SelfAttention):
    """Some of the heads, with the key/value heads that they use."""

    def __init__(self, whole: SelfAttention, division: Division, across: Across) -> None:
        nn.Layer.__init__(self)
        shape, self.index = whole.shape, whole.index
        heads, kv_heads = shape.heads // across.ranks, shape.kv_heads // across.ranks
        first = shape.first_head + across.index * heads
        self.shape = replace(shape, heads=heads, kv_heads=kv_heads, first_head=first)
        self.across = across
        _divide_maps(whole, division, across)
        self.q_proj, self.k_proj, self.v_proj = whole.q_proj, whole.k_proj, whole.v_proj
        self.o_proj = SummedLinear(whole.o_proj, across)

    def attend(self, x_TD: Tensor, *rest: Any) -> Tensor:
        return super().attend(self.across.spread(x_TD), *rest)


class DividedMLP(GatedMLP):
    """Some of the numbers between the maps up and down."""

    def __init__(self, whole: GatedMLP, division: Division, across: Across) -> None:
        nn.Layer.__init__(self)
        self.across = across
        _divide_maps(whole, division, across)
        self.gate_proj, self.up_proj, self.down_proj = whole.gate_proj, whole.up_proj, whole.down_proj

    def forward(self, x: Tensor) -> Tensor:
        weights, biases = weights_and_biases((self.gate_proj, self.up_proj, self.down_proj))
        if biases is not None:
            raise ValueError("a gated feed-forward block with biases cannot be divided yet")
        return self.across.summed(ops.gated_mlp(self.across.spread(x), weights, None))


class SequenceLayer(DecoderLayer):
    """A layer of which each rank has some tokens in training, but in the last: it looks for chosen ones.

    The first layer hands them out, the last one gathers them.
    """

    def __init__(self, whole: DecoderLayer, across: Across, *, first: bool, last: bool) -> None:
        nn.Layer.__init__(self)
        self.input_layernorm, self.self_attn = whole.input_layernorm, whole.self_attn
        self.post_attention_layernorm, self.mlp = whole.post_attention_layernorm, whole.mlp
        self.across, self.first, self.last = across, first, last
        if not last:
            mark_shared(self.input_layernorm.weight)
            mark_shared(self.post_attention_layernorm.weight)

    def forward(
        self, x_TD: Tensor, branch_TD: Tensor | None, positions: Positions, *rest: Any, **options: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.training or (self.first and self.last):
            return super().forward(x_TD, branch_TD, positions, *rest, **options)
        if self.first:
            x_TD = self.across.part(x_TD)
        if self.last:
            tokens = positions.cos_T1H.shape[0]
            x_TD = self.across.whole(x_TD if branch_TD is None else residual(x_TD, branch_TD), tokens)
            return super().forward(x_TD, None, positions, *rest, **options)
        with self.across.in_parts(positions.cos_T1H.shape[0]):
            return super().forward(x_TD, branch_TD, positions, *rest, **options)


class DividedWords(Embedding):
    """Some of the vocabulary's rows: a token's is the sum of the ranks', one has it and the others 0."""

    def __init__(self, whole: Embedding, division: Division, across: Across) -> None:
        nn.Layer.__init__(self)
        self.noise, self.is_head, self._given = whole.noise, whole.is_head, []
        self.across = across
        divide(whole, "weight", 0, across)
        self.weight = whole.weight
        shape = whole_shape(self.weight)
        parts = [row_part(0, shape, rank, across.ranks) for rank in range(across.ranks)]
        self.words = shape[0]
        self.first = parts[across.index].offset[0]
        self.counts = [part.shape[0] for part in parts]

    def rows(self, ids: Tensor) -> Tensor:
        local = ids.numpy() - self.first
        here = (local >= 0) & (local < self.counts[self.across.index])
        x = super().rows(paddle.to_tensor(np.where(here, local, 0)))
        keep = paddle.to_tensor(here[..., None].astype(np.float32)).astype(x.dtype)
        return self.across.summed(x * keep)

    def cross_entropy(self, hidden_RD: Tensor, labels_R: np.ndarray) -> tuple[Tensor, int]:
        check_labels(labels_R, np.arange(len(labels_R)), self.words)
        head_vD, most = self.as_head(), max(self.counts)
        loss = divided_cross_entropy(hidden_RD, head_vD, labels_R, self.first, most, self.across)
        return loss, len(labels_R)

    @paddle.no_grad()
    def logits(self, hidden_TD: Tensor) -> Tensor:
        """Of all words (T, V), on every rank; without a gradient."""
        own_Tv = super().logits(hidden_TD)
        missing = max(self.counts) - own_Tv.shape[1]
        if missing:
            own_Tv = paddle.concat([own_Tv, paddle.zeros([own_Tv.shape[0], missing], own_Tv.dtype)], axis=1)
        parts = zip(self.across.gathered(own_Tv), self.counts)
        return paddle.concat(
            [part if count == part.shape[1] else part[:, :count] for part, count in parts], 1
        )


def _divide_maps(layer: Any, division: Division, across: Across) -> None:
    for axis, names in ((1, division.outputs), (0, division.inputs)):
        for name in names:
            linear = getattr(layer, name)
            divide(linear, "weight", axis, across)
            if axis == 1:
                divide(linear, "bias", 0, across)
            linear.inputs, linear.outputs = linear.weight.shape
            linear.across = across


@paddle.no_grad()
def divide(layer: Any, name: str, axis: int, across: Across) -> None:
    """Leave this rank's part of a layer's parameter, which may be None."""
    whole = getattr(layer, name)
    if whole is None:
        return
    box = row_part(axis, whole.shape, across.index, across.ranks)
    part = layer.create_parameter(list(box.shape), dtype=whole.dtype, default_initializer=Constant(0.0))
    if whole._is_initialized():  # else values are yet to be filled in
        end = box.offset[axis] + box.shape[axis]
        paddle.assign(paddle.slice(whole, [axis], [box.offset[axis]], [end]), output=part)
    part.stop_gradient = whole.stop_gradient
    mark_part(part, box, whole.shape)
    setattr(layer, name, part)
