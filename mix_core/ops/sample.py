"""Choosing the next token of each row.

Shapes: B rows, V vocabulary, k candidates.
"""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

from mix_core.ops.dispatch import kernel_for
from mix_core.ops.dtypes import widened


@paddle.no_grad()
def sampling(
    logits_BV: Tensor,
    *,
    temperature: float,
    top_k: int = 0,
    top_p: float = 1.0,
    uniform_B: np.ndarray | None = None,
) -> Tensor:
    """Token ids (B,) int64: the most likely at temperature 0, else drawn with `uniform_B`, numbers in [0, 1).

    `top_k` most likely tokens stay (0 = all), then the fewest of those whose probabilities reach `top_p`. The
    draw inverts the cumulative distribution in order of falling probability, so it depends on nothing but
    logits and numbers. Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020.
    """
    kernel = kernel_for("sampling", logits_BV.dtype)
    if kernel is not None:
        return kernel(logits_BV, temperature=temperature, top_k=top_k, top_p=top_p, uniform_B=uniform_B)
    if temperature == 0.0:
        return paddle.argmax(widened(logits_BV), axis=-1)
    if uniform_B is None or len(uniform_B) != logits_BV.shape[0]:
        raise ValueError(
            f"sampling {logits_BV.shape[0]} rows needs as many numbers in [0, 1), got {uniform_B}"
        )
    V = logits_BV.shape[1]
    # float32 also where a device keeps logits narrower: the tail of a sum of many small terms counts
    logits_Bk, ids_Bk = paddle.topk(logits_BV.astype("float32"), min(top_k, V) if top_k > 0 else V)
    # by a tensor: Paddle divides by a number with an operator that few chips have
    probabilities_Bk = F.softmax(logits_Bk / paddle.full([1], temperature, "float32"), axis=-1)
    before_Bk = paddle.cumsum(probabilities_Bk, axis=-1) - probabilities_Bk
    if top_p < 1.0:
        # the most likely token has nothing before it and always stays
        keep_Bk = paddle.logical_or(before_Bk < top_p, paddle.arange(ids_Bk.shape[1]) == 0)
        probabilities_Bk = probabilities_Bk * keep_Bk.astype("float32")
    sums_Bk = paddle.cumsum(probabilities_Bk, axis=-1)
    threshold_B1 = paddle.to_tensor(uniform_B.astype(np.float32))[:, None] * sums_Bk[:, -1:]
    # counted in float32, exact up to 2^24, and fetched as int32: chips have few operators in int64
    place_B1 = (sums_Bk <= threshold_B1).astype("float32").sum(axis=-1, keepdim=True)
    last_B1 = (probabilities_Bk > 0).astype("float32").sum(axis=-1, keepdim=True) - 1.0
    place_B1 = paddle.minimum(place_B1, last_B1).astype("int64")
    return paddle.index_sample(ids_Bk.astype("int32"), place_B1).squeeze(1).astype("int64")
