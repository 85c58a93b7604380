"""The rows of several sets under one number, held in memory or read when they are asked for."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mix_core.data.index import LineFile
from mix_core.errors import DataError

Row = dict[str, Any]
"""{"messages": [...], "task": str | None, "id": ..., "source": "a.json row 3"}; rows count from 1.
"chat_template": name, where the set brings its own."""


class RowSet(Protocol):
    """Rows of one set, by number from 0."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Row:
        """Raises DataError, naming the row, for one that cannot be used."""

    def source(self, number: int) -> str:
        """The row's name in messages, without reading it."""

    def about_lengths(self, length_of: Callable[[Row], float]) -> np.ndarray:
        """A length for every row, in a unit of the set's own or by `length_of`."""


class MemorySet:
    """Rows that are all in memory; one that cannot be used is the error that says why."""

    def __init__(
        self, rows: Sequence[Row | DataError], source_of: Callable[[int], str] | None = None
    ) -> None:
        self._rows, self._source_of = rows, source_of

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> Row:
        row = self._rows[number]
        if isinstance(row, DataError):
            raise row
        return row

    def source(self, number: int) -> str:
        if self._source_of is not None:
            return self._source_of(number)
        return str(self[number].get("source") or f"row {number + 1}")

    def about_lengths(self, length_of: Callable[[Row], float]) -> np.ndarray:
        bad = 0.0
        return np.array([bad if isinstance(row, DataError) else length_of(row) for row in self._rows])


class IndexedSet:
    """Rows of a JSON-lines file that are read, made messages and checked when they are asked for."""

    def __init__(self, file: LineFile, make_row: Callable[[Any, int], Row], cap: int | None = None) -> None:
        """`make_row`: a raw row and its number from 0 to a row."""
        self._file, self._make_row = file, make_row
        self._count = len(file) if cap is None else min(cap, len(file))

    @property
    def path(self) -> Path:
        return self._file.path

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> Row:
        return self._make_row(self._file[number], number)

    def source(self, number: int) -> str:
        return f"{self._file.path} row {number + 1}"

    def about_lengths(self, length_of: Callable[[Row], float]) -> np.ndarray:
        return self._file.lengths_bytes()[: self._count].astype(np.float64)


class RowTable(Sequence[Row]):
    """Sets one after the other. A slice is a list of rows."""

    def __init__(self, sets: Sequence[RowSet | list[Row]]) -> None:
        self.sets = [MemorySet(one) if isinstance(one, list) else one for one in sets]
        self._ends = list(accumulate(len(one) for one in self.sets))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[place] for place in range(*number.indices(len(self)))]
        part, place = self._find(number)
        return part[place]

    def source(self, number: int) -> str:
        """The row's name in messages, without reading it."""
        part, place = self._find(number)
        return part.source(place)

    def usable(self) -> Iterator[Row | None]:
        """Every row, None for one that cannot be used. Reads all of them."""
        for number in range(len(self)):
            try:
                yield self[number]
            except DataError:
                yield None

    def about_lengths(self, length_of: Callable[[Row], float]) -> np.ndarray:
        """A length for every row (N,), comparable within a set."""
        return np.concatenate([one.about_lengths(length_of) for one in self.sets])

    def _find(self, number: int) -> tuple[RowSet, int]:
        if not 0 <= number < len(self):
            raise IndexError(f"row {number} of {len(self)}")
        which = bisect_right(self._ends, number)
        return self.sets[which], number - (self._ends[which - 1] if which else 0)


def as_table(rows: RowTable | list[Row]) -> RowTable:
    """Rows in a list are one set."""
    return rows if isinstance(rows, RowTable) else RowTable([rows])
