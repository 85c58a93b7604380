"""In which order an epoch visits the rows, decided by seed and epoch alone.

Shapes: N rows, E visits in an epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mix_core.data.draws import Draws
from mix_core.errors import ConfigError

GROUPED_BATCHES = 50
"""Batches of like lengths are formed within so many batches' worth of rows, so that epochs still differ."""


@dataclass(frozen=True)
class RowOrder:
    """The visits of every epoch; each epoch has the same number."""

    sizes: tuple[int, ...]
    """Rows of each set; the sets' rows are numbered one set after the other."""
    repeats: tuple[float, ...] | None = None
    """How often each set's rows come in an epoch. Of a fraction the rows take turns: with 0.5 an epoch has
    half of them and the next one the others. None: every row once."""
    seed: int = 0
    shuffle: bool = True
    weights: tuple[float, ...] | None = None
    """Share of an epoch that each set gets, its length staying the same. A small set then comes round more
    often than once and a large one takes several epochs, always all of its rows before one comes again."""
    lengths: Sequence[float] | None = None
    """Lengths (N,) in any unit: rows of like length come together, `batch_size` at a time."""
    batch_size: int = 1
    leading: Sequence[bool] | None = None
    """Rows (N,) that the first epoch visits before the others: an easy part first (Bengio et al., "Curriculum
    learning", 2009). Later epochs mix all rows."""

    def __post_init__(self) -> None:
        if self.weights is not None and (
            len(self.weights) != len(self.sizes) or min(self.weights) < 0 or sum(self.weights) <= 0
        ):
            raise ConfigError(
                f"sampling weights are {list(self.weights)} for {len(self.sizes)} sets; "
                "expected one for each set, none below 0, one above"
            )

        if self.repeats is not None and (len(self.repeats) != len(self.sizes) or min(self.repeats) <= 0):
            raise ConfigError(
                f"repeat_time is {list(self.repeats)} for {len(self.sizes)} sets; expected one above 0 each"
            )

    @property
    def counts(self) -> list[int]:
        """Visits of each set in an epoch before weights share them out: repeat_time times its rows."""
        repeats = self.repeats or (1.0,) * len(self.sizes)
        return [max(round(times * size), min(size, 1)) for times, size in zip(repeats, self.sizes)]

    @cached_property
    def visits(self) -> int:
        """E: the visits of one epoch."""
        return sum(self.counts)

    def epoch(self, epoch: int) -> np.ndarray:
        """Row numbers (E,) int64 in the order of visits."""
        counts = self._shared_out() if self.weights is not None else self.counts
        if counts == list(self.sizes):
            rows_E = np.arange(self.visits)
        else:
            rows_E = np.concatenate([self._turn(k, count, epoch) for k, count in enumerate(counts)])
        if self.shuffle:
            rows_E = rows_E[Draws("row order", self.seed, epoch).permutation(self.visits)]
        if self.lengths is not None:
            rows_E = self._grouped(rows_E, epoch)
        if self.leading is not None and epoch == 0:
            rows_E = rows_E[np.argsort(~np.asarray(self.leading, bool)[rows_E], kind="stable")]
        return rows_E

    def _shared_out(self) -> list[int]:
        """Visits of each set in an epoch: proportional to the weights, rounded to add up."""
        shares = np.array(self.weights, np.float64) / sum(self.weights or ()) * self.visits
        shares[np.array(self.sizes) == 0] = 0
        ends = np.rint(np.cumsum(shares) / max(shares.sum(), 1e-300) * self.visits).astype(np.int64)
        return [int(count) for count in np.diff(ends, prepend=0)]

    def _turn(self, number: int, count: int, epoch: int) -> np.ndarray:
        """The visits of one set in an epoch: the next `count` of its endless sequence of rounds."""
        size, first = self.sizes[number], sum(self.sizes[:number])
        if count == 0:
            return np.empty(0, np.int64)
        begin, end = epoch * count, (epoch + 1) * count
        rounds = range(begin // size, (end - 1) // size + 1)
        places = np.concatenate([self._round(number, turn, size) for turn in rounds])
        start = begin - rounds[0] * size
        return first + places[start : start + count]

    def _round(self, number: int, turn: int, size: int) -> np.ndarray:
        if not self.shuffle:
            return np.arange(size)
        return Draws("set order", self.seed, number, turn).permutation(size)

    def _grouped(self, rows_E: np.ndarray, epoch: int) -> np.ndarray:
        """Rows of like length side by side; whole batches in a random order, a rest at the end."""
        lengths = np.asarray(self.lengths)
        chunk = GROUPED_BATCHES * self.batch_size
        parts = [rows_E[start : start + chunk] for start in range(0, len(rows_E), chunk)]
        ordered = np.concatenate([part[np.argsort(-lengths[part], kind="stable")] for part in parts])
        whole = len(ordered) // self.batch_size
        batches = ordered[: whole * self.batch_size].reshape(whole, self.batch_size)
        if self.shuffle:
            batches = batches[Draws("batch order", self.seed, epoch).permutation(whole)]
        return np.concatenate([batches.reshape(-1), ordered[whole * self.batch_size :]])
