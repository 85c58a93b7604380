"""Randomness from a counter: what is drawn depends on what it is drawn for, not on when or where.

Philox (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011), keyed by seed, step, sample
and layer.
"""

from __future__ import annotations

import zlib

import numpy as np


def named_generator(seed: int, name: str) -> np.random.Generator:
    """The generator of one named thing, such as a parameter's first values."""
    return np.random.Generator(np.random.Philox(key=[seed, zlib.crc32(name.encode())]))
