"""Counter-based random numbers on the host: Philox 4x32 with 10 rounds, for whole arrays of counters.

Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011. What is drawn depends on the key and the
place it is drawn for, so it is the same in whatever order, batch, block or process it is drawn.
"""

from __future__ import annotations

import numpy as np

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


def philox4x32(counters: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Four random words a counter: counters (..., 4) and keys (..., 2), uint32, broadcast -> (..., 4)."""
    c0, c1, c2, c3 = (counters[..., i].astype(np.uint64) for i in range(4))
    k0, k1 = (keys[..., i].astype(np.uint64) for i in range(2))
    for _ in range(10):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (p1 >> _32) ^ c1 ^ k0, p1 & _LOW, (p0 >> _32) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + _KEY_STEPS[0]) & _LOW, (k1 + _KEY_STEPS[1]) & _LOW
    return np.stack(np.broadcast_arrays(c0, c1, c2, c3), axis=-1).astype(np.uint32)


def uniform(words: np.ndarray) -> np.ndarray:
    """uint32 -> float32 in [0, 1)."""
    return (words >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def keep_weights(
    keys_S2: np.ndarray, heads: range, queries: tuple[int, int], keys: tuple[int, int], dropout: float
) -> np.ndarray:
    """What attention weights are multiplied by: 0 with probability `dropout`, else 1 / (1 - dropout).

    keys_S2 (segments, 2) uint32, one Philox key a segment; queries and keys are spans of positions in it;
    heads are numbers in the model. Returns (segments, heads, queries, keys) float32. The draw of a weight has
    the counter (key position // 4, query position, head, 0) and the word key position % 4.
    """
    columns = np.arange(keys[0] // 4, -(-keys[1] // 4))
    shape = (len(keys_S2), len(heads), queries[1] - queries[0], len(columns))
    counters = np.zeros((*shape[1:], 4), np.uint32)
    counters[..., 0] = columns
    counters[..., 1] = np.arange(*queries)[:, None]
    counters[..., 2] = np.array(heads)[:, None, None]
    words = philox4x32(counters, keys_S2[:, None, None, None, :]).reshape(*shape[:3], -1)
    first = keys[0] - 4 * int(columns[0])
    kept = uniform(words[..., first : first + keys[1] - keys[0]]) >= np.float32(dropout)
    return kept.astype(np.float32) / np.float32(1.0 - dropout)
