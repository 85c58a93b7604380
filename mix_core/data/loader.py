"""Rows to batches, in an order that seed and epoch decide, from any sample on.

Shapes: N visits in an epoch (the number of rows).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Any, Literal, NamedTuple

import numpy as np

from mix_core.data.mixing import RowOrder
from mix_core.data.packing import first_fit, split_evenly
from mix_core.data.samples import SampleSource
from mix_core.data.worker import MakeProcessor, Sample
from mix_core.errors import DataError

PACKING_WINDOW = 512
"""Samples that are packed together; fewer where they may be long, as they are in memory at once."""
PACKING_WINDOW_TOKENS = 1 << 19
CACHE_BYTES = 256 << 20


@dataclass(frozen=True, kw_only=True)
class BatchSettings:
    """How samples become batches. The names are those of the run configuration."""

    batch_size: int
    """Samples in a batch; with packing, rows of max_length tokens."""
    max_length: int
    """Longest sample in tokens, and the length of a packed row."""
    on_too_long: Literal["error", "skip"] = "error"
    packing: bool = False
    """A batch is then one row: its segments do not see each other, and no place is padding."""
    train_on_prompt: bool = False
    mask_history: bool = False
    drop_last: bool = False
    """Leave out an epoch's last batch when it is not full. Packed batches have no last one that differs."""
    padding_side: Literal["left", "right"] = "right"
    cache_bytes: int = CACHE_BYTES
    """Encoded samples that are kept from epoch to epoch."""


class _Plan(NamedTuple):
    """The next batch: its visits of the epoch, and how many it takes with those that are left out."""

    places: list[int]
    taken: int


class BatchLoader:
    """An endless iterator of batches, epoch after epoch.

    A batch is a dict of numpy arrays as processor.collate gives it; its sample_ids count visits from the
    first epoch on, so no two samples of a run have the same. `position` counts the visits made: a loader that
    starts at the position of another goes on with the same batches.
    """

    def __init__(
        self,
        rows: list[dict[str, Any]],
        processor: Any,
        settings: BatchSettings,
        *,
        seed: int = 0,
        position: int = 0,
        order: RowOrder | None = None,
        num_workers: int = 0,
        make_processor: MakeProcessor | None = None,
    ) -> None:
        """`order`: by default every row once an epoch, shuffled with `seed`.

        `make_processor` makes the workers' processor: a picklable callable that imports no paddle, needed
        with num_workers. Raises DataError when there is no row, or none after drop_last.
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
        self._window: tuple[tuple[int, int], list[_Plan]] | None = None
        options = {
            "max_length": settings.max_length,
            "on_too_long": settings.on_too_long,
            "train_on_prompt": settings.train_on_prompt,
            "mask_history": settings.mask_history,
        }
        self._source = SampleSource(
            rows,
            processor,
            options,
            cache_bytes=settings.cache_bytes,
            num_workers=num_workers,
            make_processor=make_processor,
        )
        self._ahead = max(
            2 * settings.batch_size, 32 * num_workers, self._window_size if settings.packing else 0
        )

    @property
    def epoch(self) -> float:
        """Passes over the rows so far."""
        return self.position / self.order.visits

    @property
    def ends_epoch(self) -> bool:
        """Whether the batch given last was the last of its epoch."""
        return self.position > 0 and self.position % self.order.visits == 0

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        """The next batch. Raises DataError for a row that cannot be encoded, naming its file and row."""
        for _ in range(2):  # an epoch may end with rows that are all left out, but no whole epoch may
            epoch, begin = divmod(self.position, self.order.visits)
            while begin < self.order.visits:
                self._source.prefetch(self._upcoming(epoch, begin))
                plan = self._plan(epoch, begin)
                samples = [self._sample(epoch, place) for place in plan.places]
                begin += plan.taken
                self.position += plan.taken
                if samples:
                    return self._processor.collate(
                        samples, packing=self.settings.packing, padding_side=self.settings.padding_side
                    )
        raise DataError(
            f"an epoch of {self.order.visits} rows gave no batch: every row is longer than max_length "
            f"{self.settings.max_length} tokens; raise it"
        )

    def batches_in_epoch(self, epoch: int = 0) -> int:
        """How many batches an epoch gives.

        With packing, or when long samples are skipped, this encodes every row once (the cache keeps what it
        can), since only then their lengths are known.
        """
        settings, visits = self.settings, self.order.visits
        if not settings.packing and settings.on_too_long == "error":
            return (
                visits // settings.batch_size
                if settings.drop_last
                else math.ceil(visits / settings.batch_size)
            )
        count, begin = 0, 0
        while begin < visits:
            self._source.prefetch(self._upcoming(epoch, begin))
            plan = self._plan(epoch, begin)
            for place in plan.places:
                self._source.get(self._row(epoch, place))  # lets go of what the cache does not keep
            count += bool(plan.places)
            begin += plan.taken
        return count

    def close(self) -> None:
        """End the workers; may be called twice."""
        self._source.close()

    def __enter__(self) -> BatchLoader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _window_size(self) -> int:
        fitting = PACKING_WINDOW_TOKENS // self.settings.max_length
        return max(4 * self.settings.batch_size, min(PACKING_WINDOW, fitting))

    def _row(self, epoch: int, place: int) -> int:
        if epoch not in self._visits:
            self._visits = {known: rows for known, rows in self._visits.items() if known >= epoch - 1}
            self._visits[epoch] = self.order.epoch(epoch)
        return int(self._visits[epoch][place])

    def _upcoming(self, epoch: int, begin: int) -> Iterator[int]:
        """Rows of the next visits, into the next epoch."""
        for place in range(begin, begin + self._ahead):
            later, place_then = divmod(place, self.order.visits)
            yield self._row(epoch + later, place_then)

    def _sample(self, epoch: int, place: int) -> Sample:
        sample = self._source.get(self._row(epoch, place))
        return {**sample, "sample_id": epoch * self.order.visits + place}

    def _is_kept(self, epoch: int, place: int) -> bool:
        return self._source.get(self._row(epoch, place), keep=True) is not None

    def _plan(self, epoch: int, begin: int) -> _Plan:
        return self._packed(epoch, begin) if self.settings.packing else self._padded(epoch, begin)

    def _padded(self, epoch: int, begin: int) -> _Plan:
        """The next full batch, or what is left of the epoch.

        Visits that cannot make another batch are taken with this one, so that the epoch's last batch ends it.
        """
        size, visits = self.settings.batch_size, self.order.visits
        look = 2 * size if self.settings.drop_last else size + 1
        if self.settings.on_too_long == "skip":
            kept = list(islice((p for p in range(begin, visits) if self._is_kept(epoch, p)), look))
        else:
            kept = list(range(begin, min(begin + look, visits)))
        end = kept[size] if len(kept) == look else visits
        is_left_out = self.settings.drop_last and len(kept) < size
        return _Plan([] if is_left_out else kept[:size], end - begin)

    def _packed(self, epoch: int, begin: int) -> _Plan:
        """The batch at `begin` of its window; the batches of a window are packed together."""
        window, offset = divmod(begin, self._window_size)
        if self._window is None or self._window[0] != (epoch, window):
            self._window = ((epoch, window), self._pack_window(epoch, window))
        for plan in self._window[1]:
            if offset == 0:
                return plan
            offset -= plan.taken
        raise DataError(
            f"a packed run cannot go on at sample {self.position}: no batch starts there; "
            "max_length, batch size or rows have changed since"
        )

    def _pack_window(self, epoch: int, window: int) -> list[_Plan]:
        start = window * self._window_size
        stop = min(start + self._window_size, self.order.visits)
        kept = [place for place in range(start, stop) if self._is_kept(epoch, place)]
        lengths = [len(self._source.get(self._row(epoch, place), keep=True)["input_ids"]) for place in kept]
        batches = split_evenly(first_fit(lengths, self.settings.max_length), self.settings.batch_size)
        plans = [_Plan([kept[place] for place in batch], len(batch)) for batch in batches]
        skipped = stop - start - len(kept)
        if not plans:
            return [_Plan([], skipped)]
        return [_Plan(plans[0].places, plans[0].taken + skipped), *plans[1:]]
