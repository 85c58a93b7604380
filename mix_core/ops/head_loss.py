"""The output head and its cross entropy in one, so that the logits of all tokens never exist at once.

Shapes: T tokens, R tokens that carry a label, b rows of a block, D model dim, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, _C_ops
from paddle.autograd import PyLayer

from mix_core.errors import DataError
from mix_core.ops.add_rows import add_rows
from mix_core.ops.arguments import check_head_loss
from mix_core.ops.dispatch import kernel_for
from mix_core.ops.dtypes import for_product, products_inside, widened
from mix_core.ops.gradients import frozen
from mix_core.ops.shapes import take_rows

MAX_LOGITS = 1 << 24
"""Logits of one block, in numbers; a block has one row at least."""

TINY = 1e-25
"""Paddle's softmax on a CPU gives no less than exp(-64); below this the loss is taken from the logits."""


def linear_cross_entropy(
    hidden_TD: Tensor, weight_VD: Tensor, labels_T: np.ndarray, *, ignore_index: int = -100
) -> tuple[Tensor, int]:
    """Sum of the cross entropies of ``hidden @ weight.T`` with the labels (), and how many labels there are.

    labels_T are host integers; rows that hold `ignore_index` are not computed. Statistics are float32.
    Raises DataError where a label is no word of the vocabulary.
    """
    rows = np.flatnonzero(labels_T != ignore_index)
    if len(rows) == 0:
        return paddle.sum(widened(hidden_TD)) * 0.0, 0
    check_labels(labels_T, rows, weight_VD.shape[0])
    hidden_TD, weight_VD = for_product(hidden_TD, weight_VD)
    check_head_loss(hidden_TD, weight_VD, labels_T)
    training = not (hidden_TD.stop_gradient and weight_VD.stop_gradient)
    kernel = kernel_for(
        "linear_cross_entropy", hidden_TD.dtype, training=training, products=products_inside()
    )
    if kernel is not None:
        return kernel(hidden_TD, weight_VD, labels_T, ignore_index=ignore_index)
    if len(rows) != len(labels_T):
        hidden_TD = take_rows(hidden_TD, paddle.to_tensor(rows))
    hidden_TD, weight_VD = widened(hidden_TD), widened(weight_VD)
    labels_R = labels_T[rows].astype(np.int64)
    return _HeadLoss.apply(hidden_TD, weight_VD, labels_R, paddle.is_grad_enabled()), len(rows)


def check_labels(labels_T: np.ndarray, rows: np.ndarray, vocabulary: int) -> None:
    """Raise DataError where a label of these rows is no word of the vocabulary."""
    labels_R = labels_T[rows]
    outside = np.flatnonzero((labels_R < 0) | (labels_R >= vocabulary))
    if len(outside):
        row = int(rows[outside[0]])
        raise DataError(
            f"label {int(labels_T[row])} of row {row} is no word of the head's {vocabulary}; check that "
            "tokenizer and model belong together, and which label is to be ignored"
        )


class _HeadLoss(PyLayer):
    """The gradients are made in the forward pass, while a block's probabilities are at hand."""

    @staticmethod
    def forward(
        ctx: Any, hidden_RD: Tensor, weight_VD: Tensor, labels_R: np.ndarray, learning: bool
    ) -> Tensor:
        R, V = len(labels_R), weight_VD.shape[0]
        step = max(1, min(R, MAX_LOGITS // V))
        hidden_frozen, weight_frozen = frozen(hidden_RD, weight_VD)
        losses: list[Tensor] = []
        dhidden: list[Tensor] = []
        dweight_VD: Tensor | None = None
        for start in range(0, R, step):
            hidden_bD = hidden_RD if step == R else hidden_RD[start : start + step]
            labels_b = paddle.to_tensor(labels_R[start : start + step])
            logits_bV = _C_ops.matmul(hidden_bD, weight_VD, False, True)
            # Paddle's softmax on a CPU makes 1 / V of NaN; nothing else would tell the loss of it
            nothing = paddle.sum(paddle.index_sample(logits_bV, labels_b.unsqueeze(1)) * 0.0)
            probabilities_bV = F.softmax_(logits_bV, axis=-1)
            loss = paddle.sum(_losses(probabilities_bV, hidden_bD, weight_VD, labels_b))
            losses.append(loss + nothing)
            if not learning or (hidden_frozen and weight_frozen):
                continue
            # the labels' own -1 is a row of each product, so the block need not be walked for it
            if not hidden_frozen:
                part_bD = _C_ops.matmul(probabilities_bV, weight_VD, False, False)
                dhidden.append(part_bD.subtract_(_C_ops.gather(weight_VD, labels_b, 0)))
            if not weight_frozen:
                part_VD = _C_ops.matmul(probabilities_bV, hidden_bD, True, False)
                less_bD = _C_ops.scale(hidden_bD, -1.0, 0.0, True)
                part_VD = add_rows(part_VD, labels_R[start : start + step], less_bD)
                dweight_VD = part_VD if dweight_VD is None else dweight_VD.add_(part_VD)
        ctx.dhidden = paddle.concat(dhidden) if len(dhidden) > 1 else (dhidden or [None])[0]
        ctx.dweight = dweight_VD
        return losses[0] if len(losses) == 1 else paddle.add_n(losses)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return times(grad, ctx.dhidden, ctx.dweight)


def times(grad: Tensor, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    """Each of `gradients` times the number that `grad` (1,) holds, in place; one costs nothing."""
    factor = float(grad)
    if factor == 1.0:
        return gradients
    return tuple(None if part is None else part.scale_(factor) for part in gradients)


def _losses(probabilities_bV: Tensor, hidden_bD: Tensor, weight_VD: Tensor, labels_b: Tensor) -> Tensor:
    """Cross entropies (b,), exact also where a label's probability is too small for its type."""
    of_label_b = paddle.index_sample(probabilities_bV, labels_b.unsqueeze(1)).squeeze(1)
    if float(of_label_b.min()) > TINY:
        return -paddle.log(of_label_b)
    logits_bV = _C_ops.matmul(hidden_bD, weight_VD, False, True)
    of_label_b = paddle.index_sample(logits_bV, labels_b.unsqueeze(1)).squeeze(1)
    return paddle.logsumexp(logits_bV, axis=1) - of_label_b
