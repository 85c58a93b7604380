"""Packing: whole samples side by side in rows of a given length, without one seeing another."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from mix_core.errors import DataError


def first_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Places of the samples in each row: every sample goes into the first row that has room for it.

    Fills at least half of all rows but one. Raises DataError for a sample longer than `capacity`; whether
    such a sample is an error or left out is decided before, by `on_too_long`.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for place, length in enumerate(lengths):
        if length > capacity:
            raise DataError(f"a sample of {length} tokens does not fit a packed row of {capacity}")
        for row, left in enumerate(room):
            if length <= left:
                rows[row].append(place)
                room[row] -= length
                break
        else:
            rows.append([place])
            room.append(capacity - length)
    return rows


def split_evenly(rows: Sequence[list[int]], at_most: int) -> list[list[int]]:
    """Put packed rows into batches of at most `at_most` rows and nearly equal size; places of each batch."""
    batches = -(-len(rows) // at_most)
    ends = [len(rows) * (batch + 1) // batches for batch in range(batches)]
    return [list(chain.from_iterable(rows[start:end])) for start, end in zip([0, *ends], ends)]
