"""Rows for a family's small model (`TinyModel`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mix_core.models.common.collate import collate_text
from mix_core.models.common.supervision import IGNORED

ANSWER = 6
"""Labels of each row."""


def labelled(rows: Sequence[Sequence[int]], pad: int) -> dict[str, np.ndarray]:
    """input_ids, attention_mask and labels of rows, padded on the right; the last `ANSWER` are learned."""
    samples = [
        {"input_ids": row, "labels": [*[IGNORED] * (len(row) - ANSWER), *row[-ANSWER:]]} for row in rows
    ]
    batch = collate_text(samples, pad_token_id=pad)
    return {key: batch[key] for key in ("input_ids", "attention_mask", "labels")}
