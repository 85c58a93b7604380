"""The loss on held-out rows alone, where the model is not asked to answer (eval_with_do_generation)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import paddle

from mix_core.data.worker import for_row


@paddle.no_grad()
def held_out_loss(
    model: Any, processor: Any, rows: Sequence[dict[str, Any]], batch_size: int
) -> dict[str, float]:
    """The mean over all label tokens of the rows, as {"loss": ...}; {} without any.

    Rows are not cut at max_length. Raises DataError for a row that cannot be encoded.
    """
    loss_sum, label_tokens = 0.0, 0
    for start in range(0, len(rows), batch_size):
        samples = [
            for_row(processor, row).encode(row["messages"], max_length=None, describe=row["source"])
            for row in rows[start : start + batch_size]
        ]
        batch_loss, count = model.loss(processor.collate(samples))
        loss_sum, label_tokens = loss_sum + float(batch_loss), label_tokens + count
    return {"loss": loss_sum / label_tokens} if label_tokens else {}
