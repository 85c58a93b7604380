"""The output head and its cross entropy in one, from operators that the chip has for the half types.

Shapes: T tokens, R tokens that carry a label, b rows of a block, D model dim, V vocabulary.
The reference fetches the labels' rows with `gather`, which has no bfloat16 on this chip; `gather_nd` has.
Logits exist for one block at a time and are float32; products take the dtype of the inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

MAX_LOGITS = 1 << 26
"""Logits of one block, in numbers (256 MiB in float32); a block has one row at least."""


@dataclass(frozen=True)
class LossFunctions:
    """Paddle's operators; tests give recorders."""

    cross_entropy_with_softmax: Callable[..., Any]
    cross_entropy_with_softmax_grad: Callable[..., Any]


def linear_cross_entropy(
    functions: LossFunctions,
    hidden_TD: Tensor,
    weight_VD: Tensor,
    labels_T: np.ndarray,
    *,
    ignore_index: int = -100,
    max_logits: int = MAX_LOGITS,
) -> tuple[Tensor, int]:
    """docs/operators.md, linear_cross_entropy."""
    rows = np.flatnonzero(labels_T != ignore_index)
    if len(rows) == 0:
        return paddle.sum(hidden_TD).astype("float32") * 0.0, 0
    if len(rows) != len(labels_T):
        hidden_TD = paddle.gather_nd(hidden_TD, paddle.to_tensor(rows.reshape([-1, 1])))
    labels_R1 = paddle.to_tensor(labels_T[rows].astype(np.int64).reshape([-1, 1]))
    learning = paddle.is_grad_enabled()
    loss = _HeadLoss.apply(hidden_TD, weight_VD, labels_R1, functions, max_logits, learning)
    return loss, len(rows)


class _HeadLoss(PyLayer):
    """The gradients are made in the forward pass, while a block's probabilities are at hand."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_RD: Tensor,
        weight_VD: Tensor,
        labels_R1: Tensor,
        functions: LossFunctions,
        max_logits: int,
        learning: bool,
    ) -> Tensor:
        R, V = hidden_RD.shape[0], weight_VD.shape[0]
        to_hidden, to_weight = (learning and not x.stop_gradient for x in (hidden_RD, weight_VD))
        step = max(1, min(R, max_logits // V))
        losses, dhidden = [], []
        dweight_VD = paddle.zeros(weight_VD.shape, "float32") if to_weight else None
        for start in range(0, R, step):
            hidden_bD, labels_b1 = hidden_RD[start : start + step], labels_R1[start : start + step]
            logits_bV = paddle.matmul(hidden_bD, weight_VD, transpose_y=True).astype("float32")
            softmax_bV, loss_b1 = functions.cross_entropy_with_softmax(
                logits_bV, labels_b1, False, True, True, -100, -1
            )
            losses.append(loss_b1.sum())
            if not (to_hidden or to_weight):
                continue
            dlogits_bV = functions.cross_entropy_with_softmax_grad(
                labels_b1, softmax_bV, paddle.ones_like(loss_b1), False, True, True, -100, -1
            ).astype(hidden_RD.dtype)
            if to_hidden:
                dhidden.append(paddle.matmul(dlogits_bV, weight_VD))
            if dweight_VD is not None:
                dweight_VD += paddle.matmul(dlogits_bV, hidden_bD, transpose_x=True).astype("float32")
        ctx.gradients = (
            paddle.concat(dhidden) if dhidden else None,
            None if dweight_VD is None else dweight_VD.astype(weight_VD.dtype),
        )
        return paddle.add_n(losses)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (
            *(None if part is None else part * grad.astype(part.dtype) for part in ctx.gradients),
            None,  # labels
        )
