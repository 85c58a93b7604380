"""Encoded samples by row number: kept once made, made here or by workers ahead of need."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

from mix_core.data.skipped import TOO_LONG, SkippedRows
from mix_core.data.table import RowTable
from mix_core.data.worker import Failure, MakeProcessor, Sample, encode_row, failure_of
from mix_core.data.workers import CHUNK, WorkerPool, exception_of
from mix_core.errors import DataError

_OVERHEAD_BYTES = 1000
"""About what a sample's dictionary and array headers take."""


class SampleSource:
    """Gives the sample of a row, encoding it at most once while the cache has room.

    Samples are kept as they come until `cache_bytes` are full, and none is dropped for another: an epoch asks
    for every row once, so whatever is kept is of the same use.
    """

    def __init__(
        self,
        rows: RowTable,
        processor: Any,
        options: dict[str, Any],
        *,
        cache_bytes: int,
        num_workers: int = 0,
        make_processor: MakeProcessor | None = None,
        skips_bad: bool = False,
        skipped: SkippedRows | None = None,
    ) -> None:
        """`options`: keyword arguments of processor.encode. `make_processor` is needed with workers.

        `skips_bad`: a row that cannot be used is left out, else it is an error. `skipped` counts what is.
        """
        self._rows, self._processor, self._options = rows, processor, options
        self._skips_bad = skips_bad
        self.skipped = SkippedRows() if skipped is None else skipped
        self._cache: dict[int, Sample | None] = {}
        self._cache_left = cache_bytes
        self._held: dict[int, Sample | Failure | None] = {}
        """Made ahead of need and not in the cache."""
        self._pending: set[int] = set()
        """With a worker."""
        self._wanted: dict[int, None] = {}
        """To be given to workers, in order."""
        self._pool = None
        if num_workers:
            if make_processor is None:
                raise ValueError("data workers need make_processor")
            self._pool = WorkerPool(num_workers, make_processor, options)

    def prefetch(self, numbers: Iterable[int]) -> None:
        """Let the workers begin with these rows, which will be asked for next; without workers, nothing."""
        if self._pool is not None:
            self._store(self._pool.collect(wait=False))
            self._wanted = {number: None for number in numbers if not self._is_known(number)}
            self._give_out()

    def get(self, number: int, *, keep: bool = False) -> Sample | None:
        """The row's sample, None if it is left out. `keep`: it will be asked for again soon.

        Raises what encoding it raised, here or in a worker; RunFailedError when a worker died.
        """
        if number in self._cache:
            return self._counted(number, self._cache[number])
        if self._pool is not None:
            self._await(number)
        elif number not in self._held:
            self._store([(number, self._encoded(number))])
        if number in self._cache:
            return self._counted(number, self._cache[number])
        sample = self._held[number]
        if isinstance(sample, Failure):
            if not (self._skips_bad and sample.kind == DataError.__name__):
                raise exception_of(sample)
            source = self._rows.source(number)
            self.skipped.add(source, sample.message.removeprefix(f"{source}: "))
            self._cache[number] = sample = None
        if not keep:
            self._held.pop(number, None)
        return self._counted(number, sample)

    def _counted(self, number: int, sample: Sample | None) -> Sample | None:
        if sample is None:
            self.skipped.add(self._rows.source(number), TOO_LONG)  # no news where it is known to be bad
        return sample

    def _encoded(self, number: int) -> Sample | Failure | None:
        if self._skips_bad and self._rows.source(number) in self.skipped:
            return None  # a run that is resumed leaves out what it left out before
        try:
            return encode_row(self._processor, self._rows[number], self._options)
        except DataError as error:
            if not self._skips_bad:
                raise
            return failure_of(error)

    def close(self) -> None:
        """End the workers."""
        if self._pool is not None:
            self._pool.close()

    def _is_known(self, number: int) -> bool:
        return number in self._cache or number in self._held or number in self._pending

    def _give_out(self) -> None:
        assert self._pool is not None
        while self._wanted and self._pool.has_room:
            chunk = list(islice(self._wanted, CHUNK))
            readable: dict[int, dict[str, Any]] = {}
            for number in chunk:
                del self._wanted[number]
                if self._skips_bad and self._rows.source(number) in self.skipped:
                    self._store([(number, None)])
                    continue
                try:
                    readable[number] = self._rows[number]
                except DataError as error:
                    self._store([(number, failure_of(error))])
            if readable:
                self._pending.update(readable)
                self._pool.submit(list(readable), list(readable.values()))

    def _await(self, number: int) -> None:
        assert self._pool is not None
        if not self._is_known(number):
            self._wanted = {number: None, **self._wanted}
        while number in self._pending or number in self._wanted:
            self._give_out()
            if number in self._pending or number in self._wanted:
                self._store(self._pool.collect(wait=True))

    def _store(self, results: Iterable[tuple[int, Sample | Failure | None]]) -> None:
        for number, sample in results:
            self._pending.discard(number)
            size = _size_of(sample)
            if isinstance(sample, Failure) or size > self._cache_left:
                self._held[number] = sample
            else:
                self._cache[number] = sample
                self._cache_left -= size


def _size_of(sample: Sample | Failure | None) -> int:
    arrays = sample.values() if isinstance(sample, dict) else ()
    return _OVERHEAD_BYTES + sum(array.nbytes for array in arrays)
