"""Samples to a batch: padded rows, or one packed row whose segments do not see each other.

Shapes: B batch, S longest sequence, T all tokens of a packed row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mix_core.errors import ConfigError, DataError
from mix_core.models.common.supervision import IGNORED

Sample = dict[str, Any]
Batch = dict[str, np.ndarray]


def collate_text(
    samples: Sequence[Sample], *, pad_token_id: int, packing: bool = False, padding_side: str = "right"
) -> Batch:
    """Put together input_ids, labels, position_ids and sample_ids of ``samples``.

    Padded: input_ids, attention_mask and labels (B, S), position_ids (3, B, S), all int64; padding has the
    pad token, mask 0, label -100 and position 0. Packed: one row of S = T, and cu_seqlens (B + 1,) int32.
    A sample without labels or position_ids leaves that key out. sample_ids (B,) int64 are the samples'
    "sample_id", or their places.
    """
    if not samples:
        raise DataError("a batch needs at least one sample, got none")
    if padding_side not in ("left", "right"):
        raise ConfigError(f"padding_side is {padding_side!r}, expected left or right")
    lengths = [len(sample["input_ids"]) for sample in samples]
    ids = [sample.get("sample_id", place) for place, sample in enumerate(samples)]
    batch: Batch = {"sample_ids": np.array(ids, np.int64)}
    fills = {"input_ids": pad_token_id, "labels": IGNORED, "position_ids": 0}
    for key, fill in fills.items():
        if not all(key in sample for sample in samples):
            continue
        rows = [np.asarray(sample[key], np.int64) for sample in samples]
        batch[key] = _packed(rows) if packing else _padded(rows, lengths, fill, padding_side)
    ones = [np.ones(length, np.int64) for length in lengths]
    batch["attention_mask"] = _packed(ones) if packing else _padded(ones, lengths, 0, padding_side)
    if packing:
        batch["cu_seqlens"] = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return batch


def _packed(rows: list[np.ndarray]) -> np.ndarray:
    """Rows (..., S_i) -> (..., 1, T)."""
    return np.concatenate(rows, axis=-1)[..., None, :]


def _padded(rows: list[np.ndarray], lengths: list[int], fill: int, side: str) -> np.ndarray:
    """Rows (..., S_i) -> (..., B, S)."""
    longest = max(lengths)
    out = np.full((*rows[0].shape[:-1], len(rows), longest), fill, np.int64)
    for b, (row, length) in enumerate(zip(rows, lengths)):
        start = longest - length if side == "left" else 0
        out[..., b, start : start + length] = row
    return out
