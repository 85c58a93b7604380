"""The output head and the cross entropy in one: only rows that carry a label are computed.

Shapes: T tokens, D model dim, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor


def linear_cross_entropy(
    hidden_TD: Tensor, weight_VD: Tensor, labels_T: np.ndarray, *, ignore_index: int = -100
) -> tuple[Tensor, int]:
    """Summed cross entropy of ``hidden @ weight.T`` against the labels, and the number of labels."""
    rows = np.flatnonzero(labels_T != ignore_index)
    if len(rows) == 0:
        return paddle.sum(hidden_TD) * 0.0, 0
    if len(rows) != len(labels_T):
        hidden_TD = paddle.gather(hidden_TD, paddle.to_tensor(rows))
    logits = paddle.matmul(hidden_TD, weight_VD, transpose_y=True)
    loss = F.cross_entropy(logits, paddle.to_tensor(labels_T[rows]), reduction="sum")
    return loss, len(rows)
