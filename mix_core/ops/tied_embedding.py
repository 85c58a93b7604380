"""Rows for tokens from a weight that is the output head's too, with one gradient for both uses.

Shapes: T tokens, V vocabulary, D model dim.
"""

from __future__ import annotations

from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor
from paddle.autograd import PyLayer

from mix_core.ops.add_rows import add_placed_rows, place_rows
from mix_core.ops.shapes import reshape


def tied_embedding(ids_T: Tensor, weight_VD: Tensor) -> tuple[Tensor, Tensor]:
    """``weight[ids]`` (T, D), and the weight (V, D) as the output head has to take it.

    Both uses of a tied weight (Press and Wolf, "Using the Output Embedding to Improve Language Models", 2017)
    have a gradient. Taken one by one, each is as large as the weight, and one of them is zero but for the
    tokens' rows; here those rows are added into the head's. That happens in place, so the graph is walked
    once.
    """
    # now: going back, a copy to the host would wait for whatever else the device does then
    placed = place_rows(ids_T.numpy()) if paddle.is_grad_enabled() else None
    return _TiedEmbedding.apply(ids_T, weight_VD, placed)


class _TiedEmbedding(PyLayer):
    @staticmethod
    def forward(
        ctx: Any, ids_T: Tensor, weight_VD: Tensor, placed: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.shape, ctx.dtype, ctx.placed = weight_VD.shape, weight_VD.dtype, placed
        # not the tensor itself: Paddle would take it for one that is changed in place
        return F.embedding(ids_T, weight_VD), reshape(weight_VD.detach(), weight_VD.shape)

    @staticmethod
    def backward(ctx: Any, drows_TD: Tensor | None, dhead_VD: Tensor | None) -> tuple[None, Tensor | None]:
        if drows_TD is None:
            return None, dhead_VD
        if dhead_VD is None:
            dhead_VD = paddle.zeros(ctx.shape, ctx.dtype)
        return None, add_placed_rows(dhead_VD, ctx.placed, drows_TD)
