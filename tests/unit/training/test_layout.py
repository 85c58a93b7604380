"""What degrees and stages mean, and how parameters are joined into messages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mix_core.device as device
from mix_core.config import load_config
from mix_core.errors import ConfigError
from mix_core.training.layout import Layout, layout_of
from mix_core.training.partition import whole_box


@pytest.mark.parametrize(
    ("keys", "ranks", "expected"),
    [
        ({}, 4, Layout(4)),
        ({"sharding": "stage1"}, 4, Layout(4, 1, 4)),
        ({"sharding": "stage2", "sharding_degree": "2"}, 4, Layout(4, 2, 2)),
        ({"sharding": "stage2", "sharding_parallel_degree": "1"}, 4, Layout(4)),
        ({"sharding": "stage2"}, 1, Layout(1)),
        ({"use_distributed_optimizer": "true"}, 2, Layout(2, 1, 2)),
        ({"use_distributed_optimizer": "false"}, 2, Layout(2)),
    ],
)
def test_keys_give_a_layout(keys, ranks, expected):
    assert layout_of(load_config(arguments=keys), ranks) == expected


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"sharding": "stage2", "sharding_parallel_degree": "8"}, "degree 8 times .* does not make 6"),
        ({"sharding": "stage1", "sharding_parallel_degree": "4"}, "degree 4 times .* does not make 6"),
        ({"sharding_parallel_degree": "2"}, "sharding names no stage"),
    ],
)
def test_degrees_that_do_not_multiply_to_the_devices_are_refused(keys, says):
    with pytest.raises(ConfigError, match=says):
        layout_of(load_config(arguments=keys), 6)


@given(
    shapes=st.lists(st.lists(st.integers(1, 9), max_size=3).map(tuple), min_size=1, max_size=9),
    limit=st.integers(4, 400),
    ranks=st.integers(1, 4),
)
def test_messages_hold_every_parameter_once_last_first(shapes, limit, ranks):
    device.activate("cpu")
    from mix_core.training.sharding import buckets_of

    named = {str(number): shape for number, shape in enumerate(shapes)}
    buckets = buckets_of(named, limit)
    assert [name for bucket in buckets for name in bucket.names] == list(reversed(named))
    for bucket in buckets:
        sizes = [sum(box.size for box in bucket.boxes(rank, ranks)) for rank in range(ranks)]
        assert sizes == bucket.lengths(ranks)
        whole = sum(whole_box(shape).size for shape in bucket.shapes)
        assert sum(sizes) == whole and (4 * whole <= limit or len(bucket.names) == 1)
