"""Which distances between tokens T5 tells apart.

Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", 2020
(arXiv 1910.10683), section 2.1: near distances have a bucket each, far ones share buckets that grow with
their logarithm, each direction its own half.

Shapes: S tokens.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np


@lru_cache(maxsize=16)
def distance_buckets(length: int, buckets: int, farthest: int) -> np.ndarray:
    """The bucket of each pair of query and key, (S, S) int64, for rows of `length` tokens."""
    ahead = np.arange(length)[None, :] - np.arange(length)[:, None]
    distance = np.abs(ahead)
    half = buckets // 2
    single = half // 2
    # float32, as the published models count: a boundary lies on one side or the other by its last digit
    share = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(single))
    share = share / np.float32(math.log(farthest / single)) * np.float32(half - single)
    shared = np.minimum(single + share.astype(np.int64), half - 1)
    return np.where(distance < single, distance, shared) + np.where(ahead > 0, half, 0)
