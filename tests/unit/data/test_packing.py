"""Packed rows: nothing lost, nothing doubled, nothing too long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mix_core.data.packing import first_fit, split_evenly
from mix_core.errors import DataError

lengths_and_capacity = st.integers(1, 64).flatmap(
    lambda capacity: st.tuples(st.lists(st.integers(1, capacity), max_size=60), st.just(capacity))
)


@given(lengths_and_capacity)
def test_every_sample_is_in_one_row_that_has_room(case):
    lengths, capacity = case
    rows = first_fit(lengths, capacity)
    assert sorted(place for row in rows for place in row) == list(range(len(lengths)))
    assert all(sum(lengths[place] for place in row) <= capacity for row in rows)
    assert all(row == sorted(row) for row in rows)


@given(lengths_and_capacity)
def test_a_sample_opens_a_row_only_when_no_earlier_one_has_room(case):
    lengths, capacity = case
    rows = first_fit(lengths, capacity)
    for later, row in enumerate(rows):
        for earlier in rows[:later]:
            used_then = sum(lengths[place] for place in earlier if place < row[0])
            assert used_then + lengths[row[0]] > capacity
    half_empty = [row for row in rows if sum(lengths[place] for place in row) * 2 <= capacity]
    assert len(half_empty) <= 1


def test_first_fit_by_hand():
    assert first_fit([5, 6, 4, 3, 2], 10) == [[0, 2], [1, 3], [4]]
    assert first_fit([], 10) == []


def test_a_sample_beyond_the_capacity_is_an_error():
    with pytest.raises(DataError, match="a sample of 11 tokens does not fit a packed row of 10"):
        first_fit([3, 11], 10)


@given(st.integers(0, 40), st.integers(1, 9))
def test_rows_are_shared_out_evenly(count, at_most):
    batches = split_evenly([[row] for row in range(count)], at_most)
    assert [place for batch in batches for place in batch] == list(range(count))
    sizes = [len(batch) for batch in batches]
    assert len(sizes) == -(-count // at_most)
    assert not sizes or (max(sizes) <= at_most and max(sizes) - min(sizes) <= 1)
