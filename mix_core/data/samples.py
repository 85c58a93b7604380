"""Encoded samples by row number: kept once made, made here or by workers ahead of need."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

from mix_core.data.worker import Failure, MakeProcessor, Sample, encode_row
from mix_core.data.workers import CHUNK, WorkerPool, exception_of

_OVERHEAD_BYTES = 1000
"""About what a sample's dictionary and array headers take."""


class SampleSource:
    """Gives the sample of a row, encoding it at most once while the cache has room.

    Samples are kept as they come until `cache_bytes` are full, and none is dropped for another: an epoch asks
    for every row once, so whatever is kept is of the same use.
    """

    def __init__(
        self,
        rows: list[dict[str, Any]],
        processor: Any,
        options: dict[str, Any],
        *,
        cache_bytes: int,
        num_workers: int = 0,
        make_processor: MakeProcessor | None = None,
    ) -> None:
        """`options`: keyword arguments of processor.encode. `make_processor` is needed with workers."""
        self._rows, self._processor, self._options = rows, processor, options
        first: dict[int, int] = {}
        self._number = [first.setdefault(id(row), number) for number, row in enumerate(rows)]  # repeats share
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
            ahead = (self._number[number] for number in numbers)
            self._wanted = {number: None for number in ahead if not self._is_known(number)}
            self._give_out()

    def get(self, number: int, *, keep: bool = False) -> Sample | None:
        """The row's sample, None if it is skipped. `keep`: it will be asked for again soon.

        Raises what encoding it raised, here or in a worker; RunFailedError when a worker died.
        """
        number = self._number[number]
        if number in self._cache:
            return self._cache[number]
        if self._pool is not None:
            self._await(number)
        elif number not in self._held:
            self._store([(number, encode_row(self._processor, self._rows[number], self._options))])
        if number in self._cache:
            return self._cache[number]
        sample = self._held[number]
        if isinstance(sample, Failure):
            raise exception_of(sample)
        if not keep:
            del self._held[number]
        return sample

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
            for number in chunk:
                del self._wanted[number]
            self._pending.update(chunk)
            self._pool.submit(chunk, [self._rows[number] for number in chunk])

    def _await(self, number: int) -> None:
        assert self._pool is not None
        if not self._is_known(number):
            self._wanted = {number: None, **self._wanted}
        while number in self._pending or number in self._wanted:
            self._give_out()
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
