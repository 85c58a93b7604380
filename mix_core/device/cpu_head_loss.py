"""The CPU's linear_cross_entropy: loss and gradients in one go (csrc/ops/linear_cross_entropy.h).

A PyLayer around the operator, not an operator with a gradient of its own: so nothing as big as the weight is
filled or copied beside its gradient.

Shapes: T tokens, R tokens that carry a label, D model dim, V vocabulary.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np


def linear_cross_entropy(
    hidden_TD: Any, weight_VD: Any, labels_T: np.ndarray, *, ignore_index: int, narrow: bool = False
) -> tuple[Any, int]:
    import paddle

    rows_R = np.flatnonzero(labels_T != ignore_index)
    rows_and_labels = (rows_R.astype(np.int64), labels_T[rows_R].astype(np.int64))
    on_host = [paddle.to_tensor(array, place="cpu") for array in rows_and_labels]
    loss = _layer().apply(hidden_TD, weight_VD, on_host, paddle.is_grad_enabled(), narrow)
    return loss, len(rows_R)


@lru_cache(maxsize=1)
def _layer() -> Any:
    """Made at the first call, because the device layer is imported before paddle."""
    from paddle.autograd import PyLayer
    from paddle.base import core

    class HeadLoss(PyLayer):
        """Gradients are scaled in place going back, so a graph is walked once."""

        @staticmethod
        def forward(
            ctx: Any, hidden_TD: Any, weight_VD: Any, on_host: list[Any], learning: bool, narrow: bool
        ) -> Any:
            wanted = [learning and not tensor.stop_gradient for tensor in (hidden_TD, weight_VD)]
            loss, *gradients = core.eager._run_custom_op(
                "mix_linear_cross_entropy", hidden_TD, weight_VD, *on_host, *wanted, narrow
            )
            ctx.gradients = [part if asked else None for part, asked in zip(gradients, wanted)]
            return loss

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
            factor, gradients = float(grads[0]), ctx.gradients
            ctx.gradients = None
            if factor != 1.0:
                gradients = [None if part is None else part.scale_(factor) for part in gradients]
            return tuple(gradients)

    return HeadLoss
