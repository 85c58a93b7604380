"""The cross entropy of an output head whose words are divided among ranks: no rank has all logits of a token.

Statistics go over ranks in two messages of one and two numbers a token: the largest logit, then the sum of
exponentials with the label's logit, which one rank has. Megatron-LM (2019), section 3.

Shapes: R tokens with a label, b of them in a block, v words of this rank, D model dim.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
from paddle import Tensor, _C_ops
from paddle.autograd import PyLayer

from mix_core.models.parallel.across import Across
from mix_core.ops.add_rows import add_rows
from mix_core.ops.dtypes import for_product, widened
from mix_core.ops.gradients import frozen
from mix_core.ops.head_loss import MAX_LOGITS, times


def divided_cross_entropy(
    hidden_RD: Tensor, weight_vD: Tensor, labels_R: np.ndarray, first: int, most: int, across: Across
) -> Tensor:
    """Sum of the cross entropies of ``hidden @ weight.T`` with the labels (), the same on every rank.

    Args:
        labels_R: ids in the whole vocabulary.
        first: the id of this rank's first word. `most`: words of the rank that has most.
    """
    hidden_RD, weight_vD = (widened(one) for one in for_product(hidden_RD, weight_vD))
    labels_R = labels_R.astype(np.int64)
    return _HeadLoss.apply(
        hidden_RD, weight_vD, labels_R, first, MAX_LOGITS // most, across, paddle.is_grad_enabled()
    )


class _HeadLoss(PyLayer):
    """The gradients are made in the forward pass, while a block's probabilities are at hand."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_RD: Tensor,
        weight_vD: Tensor,
        labels_R: np.ndarray,
        first: int,
        step: int,
        across: Across,
        learning: bool,
    ) -> Tensor:
        R = len(labels_R)
        step = max(1, min(R, step))
        hidden_frozen, weight_frozen = (one or not learning for one in frozen(hidden_RD, weight_vD))
        losses: list[Tensor] = []
        dhidden: list[Tensor] = []
        dweight_vD: Tensor | None = None
        for start in range(0, R, step):
            hidden_bD = hidden_RD if step == R else hidden_RD[start : start + step]
            local_b = labels_R[start : start + step] - first
            here = (local_b >= 0) & (local_b < weight_vD.shape[0])
            local_b = np.where(here, local_b, 0)
            here_b1 = paddle.to_tensor(here[:, None].astype(np.float32))
            labels_b = paddle.to_tensor(local_b)
            logits_bv = _C_ops.matmul(hidden_bD, weight_vD, False, True)
            largest_b1 = across.largest_(paddle.max(logits_bv, axis=1, keepdim=True))
            logits_bv = logits_bv - largest_b1
            of_label_b1 = paddle.index_sample(logits_bv, labels_b.unsqueeze(1)) * here_b1
            exponentials_bv = paddle.exp(logits_bv)
            both_b2 = paddle.concat([paddle.sum(exponentials_bv, axis=1, keepdim=True), of_label_b1], axis=1)
            sums_b1, of_label_b1 = paddle.split(across.sum_(both_b2), 2, axis=1)
            losses.append(paddle.sum(paddle.log(sums_b1) - of_label_b1))
            if hidden_frozen and weight_frozen:
                continue
            probabilities_bv = exponentials_bv / sums_b1
            if not hidden_frozen:
                part_bD = _C_ops.matmul(probabilities_bv, weight_vD, False, False)
                dhidden.append(part_bD - _C_ops.gather(weight_vD, labels_b, 0) * here_b1)
            if not weight_frozen:
                part_vD = _C_ops.matmul(probabilities_bv, hidden_bD, True, False)
                part_vD = add_rows(part_vD, local_b, hidden_bD * (here_b1 * -1.0))
                dweight_vD = part_vD if dweight_vD is None else dweight_vD.add_(part_vD)
        ctx.dhidden = paddle.concat(dhidden) if len(dhidden) > 1 else (dhidden or [None])[0]
        ctx.dweight, ctx.across = dweight_vD, across
        return losses[0] if len(losses) == 1 else paddle.add_n(losses)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        dhidden, dweight = times(grad, ctx.dhidden, ctx.dweight)
        return None if dhidden is None else ctx.across.sum_(dhidden), dweight
