"""Randomness from a counter: what is drawn depends on what it is drawn for, not on when or where.

Philox (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011), keyed by seed, step, sample and
layer, so that a run draws the same whatever the batch, the order of the layers or the devices.
"""

from __future__ import annotations

import zlib

import numpy as np

from mix_core.ops.philox import philox4x32

_LOW = 0xFFFFFFFF


class SampleRandom:
    """What a model draws in training. The loop calls `start` before each batch's forward pass."""

    def __init__(self) -> None:
        self._key: np.ndarray | None = None
        self._counters_S4 = np.zeros((0, 4), np.uint64)

    def start(self, *, seed: int, step: int, samples: np.ndarray) -> None:
        """Draw for these samples: their ids (S,), one for each row or packed segment of the batch."""
        ids = np.asarray(samples).astype(np.uint64)
        self._key = np.array([seed & _LOW, (seed >> 32) & _LOW], np.uint64)
        self._counters_S4 = np.zeros((len(ids), 4), np.uint64)
        self._counters_S4[:, 0] = step & _LOW
        self._counters_S4[:, 1] = ids & np.uint64(_LOW)
        self._counters_S4[:, 2] = ids >> np.uint64(32)

    def keys(self, layer: int) -> np.ndarray:
        """A key for each sample in this layer, (S, 2) uint32, for operators that draw."""
        if self._key is None:
            raise RuntimeError(
                "the model draws random numbers in training: call model.random.start(...) first"
            )
        counters_S4 = self._counters_S4.copy()
        counters_S4[:, 3] = layer
        return philox4x32(counters_S4, self._key)[:, :2]

    def keep(self, layer: int, shape: tuple[int, int], dropout: float) -> np.ndarray:
        """What a layer's input is multiplied by: 0 with probability `dropout`, else 1 / (1 - dropout).

        Float32, of this shape; drawn for the batch as a whole, by the first of its samples.
        """
        low, high = (int(word) for word in self.keys(layer)[0])
        words = np.random.Generator(np.random.Philox(key=[low, high])).integers(
            1 << 16, size=shape, dtype="u2"
        )
        kept = words >= np.uint16(round(dropout * (1 << 16)))
        return kept.astype(np.float32) / np.float32(1.0 - dropout)


def named_generator(seed: int, name: str) -> np.random.Generator:
    """The generator of one named thing, such as a parameter's first values."""
    return np.random.Generator(np.random.Philox(key=[seed, zlib.crc32(name.encode())]))
