"""Rows for tokens from a weight that is the output head's too, with one gradient for both uses.

Shapes: T tokens, V vocabulary, D model dim.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor
from paddle.autograd import PyLayer

from mix_core.ops.add_rows import add_rows
from mix_core.ops.shapes import reshape


def tied_embedding(ids_T: Tensor, weight_VD: Tensor) -> tuple[Tensor, Tensor]:
    """``weight[ids]`` (T, D), and the weight (V, D) as the output head has to take it.

    Both uses of a tied weight (Press and Wolf, "Using the Output Embedding to Improve Language Models", 2017)
    have a gradient. Taken one by one, each is as large as the weight, and one of them is zero but for the
    tokens' rows; here those rows are added into the head's. That happens in place, so the graph is walked
    once.
    """
    return _TiedEmbedding.apply(ids_T, weight_VD)


class _TiedEmbedding(PyLayer):
    @staticmethod
    def forward(ctx: Any, ids_T: Tensor, weight_VD: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.ids_T, ctx.shape, ctx.dtype = ids_T, weight_VD.shape, weight_VD.dtype
        # not the tensor itself: Paddle would take it for one that is changed in place
        return F.embedding(ids_T, weight_VD), reshape(weight_VD.detach(), weight_VD.shape)

    @staticmethod
    def backward(ctx: Any, drows_TD: Tensor | None, dhead_VD: Tensor | None) -> tuple[None, Tensor | None]:
        if drows_TD is None:
            return None, dhead_VD
        if dhead_VD is None:
            dhead_VD = paddle.zeros(ctx.shape, ctx.dtype)
        places_T: np.ndarray = ctx.ids_T.numpy()
        return None, add_rows(dhead_VD, places_T, drows_TD)
