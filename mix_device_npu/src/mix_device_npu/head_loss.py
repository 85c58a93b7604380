"""The output head and its cross entropy from operators that the chip has.

Shapes: T tokens, R tokens that carry a label, b rows of a block, D model dim, V vocabulary.

Core's reference uses `index_add` and `logsumexp`, which the chip lacks: a gradient of the vocabulary's size
would go to the host and back. Here every operator has a float32 kernel. PaddleMIX's form for this chip
(log_softmax and nll_loss, NPUCrossEntropyLoss in paddlemix/models/model_utils.py) is not taken: Paddle's CPU
log_softmax, which a simulated device uses, never falls below -64, and the contract wants the exact value.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

MAX_LOGITS = 1 << 24
"""Logits of one block, in numbers; a block has one row at least."""


def linear_cross_entropy(
    hidden_TD: Any, weight_VD: Any, labels_T: np.ndarray, *, ignore_index: int
) -> tuple[Any, int]:
    """docs/operators.md, linear_cross_entropy: computed in float32, exact where a probability underflows."""
    import paddle

    rows = np.flatnonzero(labels_T != ignore_index)
    hidden, weight = hidden_TD.astype("float32"), weight_VD.astype("float32")
    if len(rows) == 0:
        return paddle.sum(hidden) * 0.0, 0
    if len(rows) != len(labels_T):
        hidden = paddle.gather(hidden, paddle.to_tensor(rows))  # in float32: gather has no bfloat16 kernel
    labels_R = labels_T[rows].astype(np.int64)
    return _head_loss().apply(hidden, weight, labels_R, paddle.is_grad_enabled()), len(rows)


@lru_cache(maxsize=1)
def _head_loss() -> Any:
    """The layer's class; made at first use, because paddle may be imported only then."""
    import paddle
    import paddle.nn.functional as F
    from paddle.autograd import PyLayer

    class HeadLoss(PyLayer):
        """Gradients are made in the forward pass, while a block's probabilities are at hand."""

        @staticmethod
        def forward(ctx: Any, hidden_RD: Any, weight_VD: Any, labels_R: np.ndarray, learning: bool) -> Any:
            R, V = len(labels_R), weight_VD.shape[0]
            step = max(1, min(R, MAX_LOGITS // V))
            to_hidden = learning and not hidden_RD.stop_gradient
            to_weight = learning and not weight_VD.stop_gradient
            losses: list[Any] = []
            dhidden: list[Any] = []
            dweight_VD: Any = None
            for start in range(0, R, step):
                hidden_bD = hidden_RD if step == R else hidden_RD[start : start + step]
                labels_b = paddle.to_tensor(labels_R[start : start + step])
                logits_bV = paddle.matmul(hidden_bD, weight_VD, transpose_y=True)
                largest_b1 = paddle.max(logits_bV, axis=-1, keepdim=True)
                of_label_b1 = paddle.index_sample(logits_bV, labels_b.unsqueeze(1))
                exps_bV = paddle.exp(logits_bV - largest_b1)
                sums_b1 = paddle.sum(exps_bV, axis=-1, keepdim=True)
                losses.append(paddle.sum(paddle.log(sums_b1) + largest_b1 - of_label_b1))
                if not to_hidden and not to_weight:
                    continue
                slope_bV = exps_bV / sums_b1 - F.one_hot(labels_b, V)
                if to_hidden:
                    dhidden.append(paddle.matmul(slope_bV, weight_VD))
                if to_weight:
                    part_VD = paddle.matmul(slope_bV, hidden_bD, transpose_x=True)
                    dweight_VD = part_VD if dweight_VD is None else dweight_VD + part_VD
            ctx.dhidden = paddle.concat(dhidden) if len(dhidden) > 1 else (dhidden or [None])[0]
            ctx.dweight = dweight_VD
            return paddle.add_n(losses) if len(losses) > 1 else losses[0]

        @staticmethod
        def backward(ctx: Any, grad: Any) -> tuple[Any, ...]:
            return tuple(None if part is None else part * grad for part in (ctx.dhidden, ctx.dweight))

    return HeadLoss
