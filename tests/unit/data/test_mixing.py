"""The order of an epoch: complete, repeatable, mixed as asked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mix_core.data.mixing import RowOrder
from mix_core.errors import ConfigError


@given(rows=st.integers(1, 200), seed=st.integers(0, 2**40), epoch=st.integers(0, 10**6))
def test_an_epoch_visits_every_row_once_in_an_order_of_its_own(rows, seed, epoch):
    order = RowOrder((rows,), seed=seed)
    assert sorted(order.epoch(epoch)) == list(range(rows))
    np.testing.assert_array_equal(order.epoch(epoch), RowOrder((rows,), seed=seed).epoch(epoch))
    if rows > 50:
        assert (order.epoch(epoch) != order.epoch(epoch + 1)).any()
        assert (order.epoch(epoch) != RowOrder((rows,), seed=seed + 1).epoch(epoch)).any()


def test_the_order_is_fixed_for_good():
    assert RowOrder((8,), seed=42).epoch(1).tolist() == [0, 4, 5, 1, 6, 2, 3, 7]
    assert RowOrder((5,), shuffle=False).epoch(3).tolist() == [0, 1, 2, 3, 4]


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    data=st.data(),
    seed=st.integers(0, 1000),
)
def test_weights_share_out_an_epoch_and_go_round_each_set(sizes, data, seed):
    weights = data.draw(st.lists(st.floats(0.1, 10), min_size=len(sizes), max_size=len(sizes)))
    order = RowOrder(tuple(sizes), seed=seed, weights=tuple(weights))
    owner = np.repeat(np.arange(len(sizes)), sizes)
    epochs = [order.epoch(epoch) for epoch in range(12)]
    for visits in epochs:
        assert len(visits) == sum(sizes)
        shares = np.bincount(owner[visits], minlength=len(sizes))
        np.testing.assert_allclose(shares, np.array(weights) / sum(weights) * sum(sizes), atol=1.01)
    seen = np.bincount(np.concatenate(epochs), minlength=sum(sizes))
    for k in range(len(sizes)):  # no row of a set is ahead of another by more than a round
        own = seen[owner == k]
        assert own.max() - own.min() <= 1


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    data=st.data(),
    seed=st.integers(0, 1000),
    shuffle=st.booleans(),
)
def test_repeats_give_each_set_its_visits_and_go_round_it(sizes, data, seed, shuffle):
    repeats = data.draw(st.lists(st.floats(0.05, 3.5), min_size=len(sizes), max_size=len(sizes)))
    order = RowOrder(tuple(sizes), seed=seed, repeats=tuple(repeats), shuffle=shuffle)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    wanted = [max(1, round(times * size)) for times, size in zip(repeats, sizes)]
    epochs = [order.epoch(epoch) for epoch in range(7)]
    for visits in epochs:
        assert np.bincount(owner[visits], minlength=len(sizes)).tolist() == wanted
    assert order.visits == sum(wanted)
    seen = np.bincount(np.concatenate(epochs), minlength=sum(sizes))
    for k in range(len(sizes)):
        own = seen[owner == k]
        assert own.max() - own.min() <= 1


def test_half_a_set_is_the_other_half_in_the_next_epoch():
    order = RowOrder((10, 3), seed=1, repeats=(0.5, 2.0))
    first, second = (set(order.epoch(epoch).tolist()) for epoch in (0, 1))
    assert {*range(10)} == (first | second) - {10, 11, 12} and len(first & second) == 3


def test_weights_keep_the_length_of_an_epoch_that_repeats():
    order = RowOrder((10, 90), repeats=(2.0, 1.0), weights=(3.0, 1.0))
    small = (order.epoch(0) < 10).sum()
    assert order.visits == 110 and small in (82, 83)


def test_repeats_change_nothing_where_they_are_one():
    plain, once = RowOrder((7, 5), seed=3), RowOrder((7, 5), seed=3, repeats=(1.0, 1.0))
    np.testing.assert_array_equal(plain.epoch(2), once.epoch(2))


@pytest.mark.parametrize("repeats", [(1.0,), (1.0, 0.0)])
def test_wrong_repeats_are_refused(repeats):
    with pytest.raises(ConfigError, match=r"repeat_time is .* for 2 sets; expected one above 0 each"):
        RowOrder((2, 2), repeats=repeats)


def test_a_set_of_weight_zero_stays_out():
    order = RowOrder((3, 5), weights=(0.0, 2.0))
    assert sorted(set(order.epoch(0).tolist())) == [3, 4, 5, 6, 7]


@pytest.mark.parametrize("weights", [(1.0,), (1.0, -1.0), (0.0, 0.0)])
def test_wrong_weights_are_refused(weights):
    with pytest.raises(ConfigError, match=r"sampling weights are .* for 2 sets; expected one for each set"):
        RowOrder((2, 2), weights=weights)


@given(rows=st.integers(1, 700), batch=st.integers(1, 8), seed=st.integers(0, 100))
def test_grouping_keeps_every_row_and_brings_like_lengths_together(rows, batch, seed):
    lengths = np.random.default_rng(seed).integers(1, 1000, rows)
    order = RowOrder((rows,), seed=seed, lengths=lengths, batch_size=batch)
    visits = order.epoch(0)
    assert sorted(visits) == list(range(rows))

    def padding(places):
        whole = lengths[places][: rows // batch * batch].reshape(-1, batch)
        return (whole.max(axis=1, keepdims=True) - whole).sum()

    if rows >= 200 and batch > 1:
        assert padding(visits) < 0.5 * padding(RowOrder((rows,), seed=seed).epoch(0))


def test_the_first_epoch_begins_with_the_leading_rows_and_later_ones_mix():
    leading = [number % 3 == 0 for number in range(90)]
    order = RowOrder((60, 30), seed=4, leading=leading)
    first, second = order.epoch(0), order.epoch(1)
    assert sorted(first) == sorted(second) == list(range(90))
    assert all(row % 3 == 0 for row in first[:30]) and all(row % 3 for row in first[30:])
    assert sorted(first[:30]) != list(first[:30])
    assert not all(row % 3 == 0 for row in second[:30])
