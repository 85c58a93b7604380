"""What degrees and stages mean, and how parameters are joined into messages."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mix_core.device as device
from mix_core.config import load_config
from mix_core.errors import ConfigError
from mix_core.training.layout import AXES, MODEL, STREAM, Layout, Place, layout_of
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
        ({"tensor_parallel_degree": "2"}, 4, Layout(4, tensor=2)),
        ({"tensor_model_parallel_size": "4", "sharding": "stage1"}, 4, Layout(4, tensor=4)),
        ({"tensor_parallel_degree": "2", "sharding": "stage2"}, 8, Layout(8, 2, 4, tensor=2)),
        ({"tensor_parallel_degree": "-1"}, 2, Layout(2)),
        ({"pipeline_model_parallel_size": "2"}, 4, Layout(4, pipeline=2)),
        ({"pipeline_parallel_degree": "2", "sharding": "stage1"}, 4, Layout(4, 1, 2, pipeline=2)),
        ({"pipeline_parallel_degree": "2", "sharding": "stage3"}, 4, Layout(4, 3, 2, pipeline=2)),
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
        ({"tensor_parallel_degree": "4"}, "tensor_parallel_degree 4 .* does not divide 6"),
        (
            {"tensor_parallel_degree": "3", "sharding": "stage1", "sharding_parallel_degree": "6"},
            "degree 6 times .* does not make 2",
        ),
        ({"pipeline_parallel_degree": "4"}, "times pipeline_parallel_degree 4 does not divide 6"),
        ({"vit_pp_layers": "[4,0]"}, "vit_pp_layers is of a pipeline"),
        ({"virtual_pp_degree": "2"}, "virtual_pp_degree is of a pipeline"),
        (
            {"pipeline_parallel_degree": "2", "vit_pp_layers": "[3,1]", "llm_pp_layers": "[1,1]"},
            r"vit_pp_layers \[3, 1\] with llm_pp_layers \[1, 1\]: stage 1 has 1 of the tower's",
        ),
        ({"tensor_parallel_degree": "2", "module_stats_steps": "1"}, "module_stats_steps wants whole"),
        (
            {"tensor_parallel_degree": "2", "overlap_grad_reduce": "true"},
            "overlap_grad_reduce with tensor_parallel_degree 2 .* not built",
        ),
        (
            {"pipeline_parallel_degree": "2", "lora": "true", "weight_quantize_algo": "weight_only_int8"},
            "weight_quantize_algo with .* pipeline_parallel_degree 2 is not built",
        ),
    ],
)
def test_degrees_that_do_not_multiply_to_the_devices_are_refused(keys, says):
    with pytest.raises(ConfigError, match=says):
        layout_of(load_config(arguments=keys), 6)


def test_ranks_that_talk_most_are_neighbours():
    layout = Layout(16, 1, 2, tensor=2, pipeline=2)
    assert layout.sizes == {"pipeline": 2, "data": 2, "sharding": 2, "tensor": 2}
    assert layout.place(11) == Place(pipeline=1, data=0, sharding=1, tensor=1)
    assert layout.group(11, ["tensor"]) == [10, 11] and layout.group(11, ["sharding"]) == [9, 11]
    assert layout.group(11, ["data"]) == [11, 15] and layout.group(11, ["pipeline"]) == [3, 11]
    assert layout.group(11, MODEL) == [2, 3, 10, 11] and layout.group(11, STREAM) == [9, 11, 13, 15]
    assert [layout.stream(rank) for rank in range(16)] == [0, 0, 1, 1, 2, 2, 3, 3] * 2
    assert layout.writers == [0, 1, 2, 3, 8, 9, 10, 11]


@given(
    sizes=st.lists(st.integers(1, 4), min_size=4, max_size=4),
    along=st.sets(st.sampled_from(AXES)),
)
def test_groups_hold_every_rank_once(sizes, along):
    pipeline, data, sharing, tensor = sizes
    layout = Layout(math.prod(sizes), 1, sharing, tensor, pipeline)
    assert layout.sizes == {"pipeline": pipeline, "data": data, "sharding": sharing, "tensor": tensor}
    groups = layout.groups(tuple(along))
    assert sorted(rank for group in groups for rank in group) == list(range(layout.ranks))
    assert {len(group) for group in groups} == {math.prod(layout.sizes[axis] for axis in along)}
    assert all(layout.group(rank, tuple(along)) == group for group in groups for rank in group)


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
