"""Random draws that are the same on every machine and with every NumPy release.

NumPy promises the raw output of a bit generator, but not what `Generator.integers` or `shuffle` make of it.
What a run must repeat bit for bit (generated pictures, the order of samples) is therefore drawn from raw
64-bit words here, with integer arithmetic only.
"""

from __future__ import annotations

import zlib

import numpy as np


class Draws:
    """A stream of integers keyed by numbers and names, e.g. ``Draws("order", seed, epoch)``."""

    def __init__(self, *key: int | str) -> None:
        words = [zlib.crc32(part.encode()) if isinstance(part, str) else int(part) for part in key]
        self._bits = np.random.PCG64(np.random.SeedSequence(words))

    def below(self, bound: int) -> int:
        """One integer in [0, bound), bound at most 2**32."""
        return ((int(self._bits.random_raw()) >> 32) * bound) >> 32

    def between(self, low: int, high: int) -> int:
        """One integer in [low, high], both ends included."""
        return low + self.below(high - low + 1)

    def fractions(self, count: int) -> np.ndarray:
        """`count` float64 in [0, 1) with 53 random bits each."""
        return (self._bits.random_raw(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def permutation(self, count: int) -> np.ndarray:
        """A random order of range(count), int64."""
        return np.argsort(self._bits.random_raw(count), kind="stable")
