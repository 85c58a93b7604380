"""Host plans for the reference of attention: which rows of q, k and v form one batch of products.

Shapes: T tokens of all segments, N query heads, K key/value heads (K divides N), G = N / K, H head dim.
A tensor (T, N, H) is used as T * N rows of H numbers. Segments of equal length form one batch however they
lie, so that a hundred windows cost as many operators as one; rows are fetched by index, which also brings
them into head order (a strided transpose costs many times as much on a CPU). Long segments are cut into
blocks of queries that see only the keys they may attend to, so that scores need no more than bounded memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import paddle
from paddle import Tensor

BLOCK = 256
"""Queries of a segment that are scored together."""
MAX_SCORES = 1 << 24
"""Scores held at once, in numbers, unless one block of one segment already needs more."""
MAX_WIDE_BIAS = 1 << 22
"""Numbers up to which a bias is kept for each row of the batch: adding equal shapes is many times faster."""
MASKED = -1e30
"""Added to a score that must not be attended: exp gives 0, and a row with nothing left stays finite."""


@dataclass(frozen=True)
class Job:
    """One batch of products: `batch` pairs of a segment and a key/value head."""

    batch: int
    queries: int
    """Rows of q in each pair: G times the queries of a segment's block."""
    keys: int
    first_row: int
    """Where the job's rows begin in the order of `Plan.q_rows`."""
    kv_rows: Tensor
    """Rows of k and v, batch * keys."""
    bias: Tensor | None
    """Added to the scores: (batch, queries * keys), or (queries * keys,) for all; 0 or MASKED."""
    segments: np.ndarray
    """Segment of each of the batch's pairs."""
    query_span: tuple[int, int]
    key_span: tuple[int, int]
    """Positions in the segment that the job covers."""


@dataclass(frozen=True)
class Plan:
    jobs: tuple[Job, ...]
    q_rows: Tensor
    """Row of q for each row in job order, T * N."""
    out_rows: Tensor
    """Its inverse: where each row of q, and of the result, stands in job order."""
    kv_rows_back: Tensor | None
    """Where each row of k and v stands in job order; None where jobs share rows and gradients add up."""


@lru_cache(maxsize=64)
def make_plan(
    q_ends: bytes, k_ends: bytes, heads: int, kv_heads: int, causal: bool, window: int | None
) -> Plan:
    """Plan for segments given by their int64 ends with a leading 0, as bytes (the key of the cache).

    Causal order is aligned at the end: the last query of a segment sees its last key.
    """
    q_starts, q_lengths = _spans(q_ends)
    k_starts, k_lengths = _spans(k_ends)
    groups = heads // kv_heads
    rows: list[np.ndarray] = []
    jobs: list[Job] = []
    kv_rows: list[np.ndarray] = []
    first_row = 0
    for q_length, k_length in sorted(set(zip(q_lengths.tolist(), k_lengths.tolist()))):
        if q_length == 0:
            continue
        alike = np.flatnonzero((q_lengths == q_length) & (k_lengths == k_length))
        for start in range(0, q_length, BLOCK):
            end = min(start + BLOCK, q_length)
            low, high = _visible(start, end, k_length - q_length, k_length, causal, window)
            step = max(1, MAX_SCORES // (heads * (end - start) * max(high - low, 1)))
            for segments in np.split(alike, range(step, len(alike), step)):
                tokens = q_starts[segments][:, None, None, None] + np.arange(start, end)
                head = np.arange(heads).reshape(kv_heads, groups, 1)
                rows.append((tokens * heads + head).reshape(-1))
                kv_tokens = k_starts[segments][:, None, None] + np.arange(low, high)
                kv_rows.append((kv_tokens * kv_heads + np.arange(kv_heads)[:, None]).reshape(-1))
                batch, queries = len(segments) * kv_heads, groups * (end - start)
                bias = _bias(start, end, low, high, k_length - q_length, causal, window, groups)
                jobs.append(
                    Job(
                        batch=batch,
                        queries=queries,
                        keys=high - low,
                        first_row=first_row,
                        kv_rows=paddle.to_tensor(kv_rows[-1]),
                        bias=_for_batch(bias, batch),
                        segments=segments,
                        query_span=(start, end),
                        key_span=(low, high),
                    )
                )
                first_row += batch * queries
    q_rows = np.concatenate(rows)
    all_kv = np.concatenate(kv_rows)
    each_once = len(all_kv) == k_lengths.sum() * kv_heads and len(np.unique(all_kv)) == len(all_kv)
    return Plan(
        jobs=tuple(jobs),
        q_rows=paddle.to_tensor(q_rows),
        out_rows=paddle.to_tensor(np.argsort(q_rows)),
        kv_rows_back=paddle.to_tensor(np.argsort(all_kv)) if each_once else None,
    )


def _spans(ends: bytes) -> tuple[np.ndarray, np.ndarray]:
    edges = np.frombuffer(ends, np.int64)
    return edges[:-1], np.diff(edges)


def _visible(
    start: int, end: int, shift: int, keys: int, causal: bool, window: int | None
) -> tuple[int, int]:
    """First key and end of the keys that queries start..end may see; query i stands at key i + shift."""
    low = 0 if window is None else max(0, start + shift - window + 1)
    high = min(keys, end + shift) if causal else keys
    if window is not None:
        high = min(high, end + shift + window - 1)
    return low, max(high, low + 1)


def _bias(
    start: int, end: int, low: int, high: int, shift: int, causal: bool, window: int | None, groups: int
) -> np.ndarray | None:
    """0 or MASKED for each query of each group and key, flat; None where every key is seen."""
    ahead = np.arange(low, high) - (np.arange(start, end)[:, None] + shift)
    hidden = ahead > 0 if causal else np.zeros(ahead.shape, bool)
    if window is not None:
        hidden |= np.abs(ahead) >= window
    if not hidden.any():
        return None
    return np.tile(np.where(hidden, np.float32(MASKED), np.float32(0.0)), (groups, 1)).reshape(-1)


def _for_batch(bias: np.ndarray | None, batch: int) -> Tensor | None:
    if bias is None:
        return None
    if batch * bias.size <= MAX_WIDE_BIAS:
        return paddle.to_tensor(np.tile(bias, (batch, 1)))
    return paddle.to_tensor(bias)
