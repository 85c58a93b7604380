"""Tensor and pipeline parallel, sharding and checkpoints of Paddle's engine on two simulated devices."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.simulated_fleet import (
    assert_at_home,
    assert_equal_to_one_process,
    launch,
    run_alone,
)

pytestmark = pytest.mark.slow
STEPS, WEIGHTS = 3, 9
STATES_OF_A_WEIGHT = 4
"""The weight, its gradient, two moments."""

DEVICES = pytest.mark.parametrize("device", ["npu", "xpu"])


@pytest.mark.parametrize("device", ["npu", "xpu", "gpu"])
def test_tensor_parallel_equals_one_process(device: str, tmp_path: Path):
    ranks = launch(tmp_path, device, "fleet_tensor.py").ranks
    assert_equal_to_one_process(ranks, 1e-6)
    assert_at_home(device, ranks, STEPS * WEIGHTS * STATES_OF_A_WEIGHT)


def test_tensor_parallel_with_overlap_equals_one_process(tmp_path: Path):
    ranks = launch(tmp_path, "npu", "fleet_tensor.py", "async").ranks
    assert_equal_to_one_process(ranks, 1e-6)
    assert_at_home("npu", ranks, STEPS * WEIGHTS * STATES_OF_A_WEIGHT)


@DEVICES
def test_pipeline_parallel_equals_one_process(device: str, tmp_path: Path):
    first, last = ranks = launch(tmp_path, device, "fleet_pipeline.py").ranks
    assert_equal_to_one_process(ranks, 1e-6)
    assert set(first["weights"]) | set(last["weights"]) == {
        *("embedding.weight", "up.weight", "up.bias", "down.weight", "down.bias"),
        *("norm.weight", "norm.bias", "head.weight", "head.bias"),
    }
    assert not set(first["weights"]) & set(last["weights"])
    assert_at_home(device, ranks, STEPS * len(last["weights"]) * STATES_OF_A_WEIGHT)


@DEVICES
@pytest.mark.parametrize("stage", ["1", "2", "3"])
def test_sharding_equals_one_process(device: str, stage: str, tmp_path: Path):
    first, second = ranks = launch(tmp_path, device, "fleet_sharding.py", stage, "float32").ranks
    assert_equal_to_one_process(ranks, 1e-6)
    # each rank holds about half of the moments, so that the state is divided indeed
    held = first["moment_elements"] + second["moment_elements"]
    assert first["all_elements"] <= held < 1.1 * first["all_elements"]
    assert abs(first["moment_elements"] - second["moment_elements"]) < 0.1 * held
    assert_at_home(device, ranks, STEPS * WEIGHTS)


@pytest.mark.parametrize("stage", ["1", "2", "3"])
def test_sharding_in_bfloat16_steps_on_master_weights(stage: str, tmp_path: Path):
    ranks = launch(tmp_path, "npu", "fleet_sharding.py", stage, "bfloat16").ranks
    for seen in ranks:
        assert seen["losses"] == pytest.approx(seen["alone"], abs=5e-3)
        # of what each weight moved in one process (rounding to bfloat16 was seen to make 0.05); masters that
        # one process never moved give infinity
        assert max(seen["moved"].values()) < 0.1
    assert sum(seen["masters"] for seen in ranks) >= WEIGHTS
    assert_at_home("npu", ranks, STEPS * WEIGHTS)


def test_a_checkpoint_of_two_ranks_loads_exactly_into_one(tmp_path: Path):
    # its loading writes through views, which there are only with the stride kernels
    views = {"FLAGS_use_stride_kernel": "1"}
    first, second = launch(tmp_path, "npu", "fleet_checkpoint.py", **views).ranks
    loaded = run_alone(tmp_path, "npu", "fleet_checkpoint.py", **views)
    assert loaded["names"] == first["names"] == second["names"] and len(loaded["names"]) == WEIGHTS * 5
    assert sum(distance > 1e-4 for distance in loaded["before"].values()) == WEIGHTS * 3
    assert {name: distance for name, distance in loaded["after"].items() if distance != 0.0} == {}
    assert_at_home("npu", [loaded], 2 * WEIGHTS * 3)


def test_without_views_a_checkpoint_of_paddle_loads_nothing(tmp_path: Path):
    launch(tmp_path, "npu", "fleet_checkpoint.py")
    loaded = run_alone(tmp_path, "npu", "fleet_checkpoint.py")
    assert loaded["after"] == loaded["before"]
    assert max(loaded["before"].values()) > 1
