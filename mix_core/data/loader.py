"""Rows to batches, in an order that seed and epoch decide, from any sample on.

Shapes: N visits in an epoch (the number of rows).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Any, Literal, NamedTuple

import numpy as np

from mix_core.data.draws import Draws
from mix_core.data.mixing import RowOrder
from mix_core.data.packed_epoch import PackedEpoch
from mix_core.data.samples import SampleSource
from mix_core.data.skipped import SkippedRows
from mix_core.data.table import RowTable, as_table
from mix_core.data.worker import MakeProcessor, Sample
from mix_core.data.workers import CHUNK
from mix_core.errors import DataError

CACHE_BYTES = 256 << 20
COUNTED_ROWS = 512
"""Rows whose lengths are looked at to tell how many batches an epoch has; they stand for a larger set."""
COUNTED_PACKS_OF = 20_000
"""Visits of an epoch that is packed on trial, with those lengths."""


@dataclass(frozen=True, kw_only=True)
class BatchSettings:
    """How samples become batches. The names are those of the run configuration."""

    batch_size: int
    """Samples in a batch; with packing, a batch holds batch_size * max_length tokens."""
    max_length: int
    """Longest sample in tokens."""
    on_too_long: Literal["error", "skip", "truncate"] = "error"
    on_bad_sample: Literal["error", "skip"] = "error"
    """What to do with a row that cannot be used."""
    packing: bool = False
    """A batch is then one row: its segments do not see each other, and no place is padding."""
    train_on_prompt: bool = False
    mask_history: bool = False
    drop_last: bool = False
    """Leave out an epoch's last batch when it is not full. Without effect on packed batches."""
    padding_side: Literal["left", "right"] = "right"
    cache_bytes: int = CACHE_BYTES
    """Encoded samples that are kept from epoch to epoch."""

    @property
    def leaves_out(self) -> bool:
        """Whether a row may give no sample."""
        return "skip" in (self.on_too_long, self.on_bad_sample)


class _Plan(NamedTuple):
    """The next batch: its visits of the epoch, and how many it takes with those that are left out."""

    places: list[int]
    taken: int


class BatchLoader:
    """An endless iterator of batches, epoch after epoch.

    A batch is a dict of numpy arrays as processor.collate gives it; its sample_ids count visits from the
    first epoch on, so no two samples of a run have the same. `position` counts the visits made, `waiting` are
    the visits that packing has read ahead: a loader that starts from those of another goes on with the same
    batches, with any number of workers.
    """

    def __init__(
        self,
        rows: RowTable | list[dict[str, Any]],
        processor: Any,
        settings: BatchSettings,
        *,
        seed: int = 0,
        position: int = 0,
        waiting: Sequence[int] = (),
        order: RowOrder | None = None,
        num_workers: int = 0,
        make_processor: MakeProcessor | None = None,
        skipped: SkippedRows | None = None,
    ) -> None:
        """`order`: by default every row once an epoch, shuffled with `seed`.

        `make_processor` makes the workers' processor: a picklable callable that imports no paddle, needed
        with num_workers. `skipped` counts rows that are left out. Raises DataError when there is no row, or
        none after drop_last.
        """
        self.order = order or RowOrder((len(rows),), seed=seed)
        if not rows or not self.order.visits:
            raise DataError("there are no rows to make batches of")
        if settings.drop_last and not settings.packing and self.order.visits < settings.batch_size:
            raise DataError(
                f"{self.order.visits} rows do not fill one batch of {settings.batch_size}, and drop_last "
                "leaves the rest out; lower the batch size or set drop_last to false"
            )
        self.settings, self._processor = settings, processor
        self.position = position
        self._visits: dict[int, np.ndarray] = {}
        self._packed: tuple[int, PackedEpoch] | None = None
        """The epoch that is being packed, by number."""
        self._first_waiting = list(waiting)
        options = {
            "max_length": settings.max_length,
            "on_too_long": settings.on_too_long,
            "train_on_prompt": settings.train_on_prompt,
            "mask_history": settings.mask_history,
        }
        self._source = SampleSource(
            as_table(rows),
            processor,
            options,
            cache_bytes=settings.cache_bytes,
            num_workers=num_workers,
            make_processor=make_processor,
            skips_bad=settings.on_bad_sample == "skip",
            skipped=skipped,
        )
        self._ahead = max(2 * settings.batch_size, 32 * num_workers)

    @property
    def epoch(self) -> float:
        """Passes over the rows so far."""
        return self.position / self.order.visits

    @property
    def ends_epoch(self) -> bool:
        """Whether the batch given last was the last of its epoch."""
        return self.position > 0 and self.position % self.order.visits == 0

    @property
    def waiting(self) -> list[int]:
        """Visits of this epoch that are read and not in a batch yet."""
        return self._packed[1].waiting if self._packed is not None else list(self._first_waiting)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        """The next batch. Raises DataError for a row that cannot be encoded, naming its file and row."""
        for _ in range(2):  # an epoch may end with rows that are all left out, but no whole epoch may
            epoch, begin = divmod(self.position, self.order.visits)
            while begin < self.order.visits:
                plan = self._next_pack(epoch, begin) if self.settings.packing else self._padded(epoch, begin)
                samples = [self._sample(epoch, place) for place in plan.places]
                begin += plan.taken
                self.position += plan.taken
                if samples:
                    return self._processor.collate(
                        samples, packing=self.settings.packing, padding_side=self.settings.padding_side
                    )
        raise DataError(
            f"an epoch of {self.order.visits} rows gave no batch: every row is left out; the first of them: "
            f"{self._source.skipped.first} (max_length is {self.settings.max_length} tokens)"
        )

    @property
    def counts_exactly(self) -> bool:
        """Whether `batches_in_epoch` is no estimate."""
        return not (self.settings.packing or self.settings.leaves_out) or self.order.visits <= COUNTED_ROWS

    def batches_in_epoch(self) -> int:
        """How many batches the first epoch gives.

        With packing, or when rows may be left out, this encodes up to COUNTED_ROWS rows, drawn from all; of a
        larger epoch the number is an estimate.
        """
        settings, visits = self.settings, self.order.visits
        if not settings.packing and not settings.leaves_out:
            return self._padded_batches(visits)
        places = np.arange(visits)
        if not self.counts_exactly:
            places = np.sort(Draws("counted rows", self.order.seed).permutation(visits)[:COUNTED_ROWS])
        rows = [self._row(0, int(place)) for place in places]
        lengths: list[int | None] = []
        for done, row in enumerate(rows):
            self._source.prefetch(rows[done : done + self._ahead])
            sample = self._source.get(row)
            lengths.append(len(sample["input_ids"]) if sample is not None else None)
        if not settings.packing:
            kept = sum(length is not None for length in lengths)
            return self._padded_batches(round(kept / len(lengths) * visits))
        tried = visits if self.counts_exactly else min(visits, COUNTED_PACKS_OF)
        packs = PackedEpoch(
            tried, settings.batch_size * settings.max_length, lambda place: lengths[place % len(lengths)]
        ).count()
        return packs if tried == visits else math.ceil(packs * visits / tried)

    def _padded_batches(self, kept: int) -> int:
        size = self.settings.batch_size
        return kept // size if self.settings.drop_last else math.ceil(kept / size)

    def close(self) -> None:
        """End the workers; may be called twice."""
        self._source.close()

    def __enter__(self) -> BatchLoader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _row(self, epoch: int, place: int) -> int:
        if epoch not in self._visits:
            self._visits = {known: rows for known, rows in self._visits.items() if known >= epoch - 1}
            self._visits[epoch] = self.order.epoch(epoch)
        return int(self._visits[epoch][place])

    def _upcoming(self, epoch: int, begin: int, count: int) -> Iterator[int]:
        """Rows of the next visits, into the next epoch."""
        for place in range(begin, begin + count):
            later, place_then = divmod(place, self.order.visits)
            yield self._row(epoch + later, place_then)

    def _sample(self, epoch: int, place: int) -> Sample:
        sample = self._source.get(self._row(epoch, place))
        return {**sample, "sample_id": epoch * self.order.visits + place}

    def _is_kept(self, epoch: int, place: int) -> bool:
        return self._source.get(self._row(epoch, place), keep=True) is not None

    def _padded(self, epoch: int, begin: int) -> _Plan:
        """The next full batch, or what is left of the epoch.

        Visits that cannot make another batch are taken with this one, so that the epoch's last batch ends it.
        """
        self._source.prefetch(self._upcoming(epoch, begin, self._ahead))
        size, visits = self.settings.batch_size, self.order.visits
        look = 2 * size if self.settings.drop_last else size + 1
        if self.settings.leaves_out:
            kept = list(islice((p for p in range(begin, visits) if self._is_kept(epoch, p)), look))
        else:
            kept = list(range(begin, min(begin + look, visits)))
        end = kept[size] if len(kept) == look else visits
        is_left_out = self.settings.drop_last and len(kept) < size
        return _Plan([] if is_left_out else kept[:size], end - begin)

    def _next_pack(self, epoch: int, begin: int) -> _Plan:
        if self._packed is None or self._packed[0] != epoch:
            waiting, self._first_waiting = self._first_waiting, []
            self._packed = (epoch, self._packed_epoch(epoch, begin + len(waiting), waiting))
        packs = self._packed[1]
        places = packs.next()
        left_out, packs.left_out = packs.left_out, 0
        return _Plan(places, len(places) + left_out)

    def _packed_epoch(self, epoch: int, front: int, waiting: Sequence[int]) -> PackedEpoch:
        def length_of(place: int) -> int | None:
            if place % CHUNK == 0:
                self._source.prefetch(self._upcoming(epoch, place, self._ahead))
            sample = self._source.get(self._row(epoch, place), keep=True)
            return len(sample["input_ids"]) if sample is not None else None

        capacity = self.settings.batch_size * self.settings.max_length
        return PackedEpoch(self.order.visits, capacity, length_of, front=front, waiting=waiting)
