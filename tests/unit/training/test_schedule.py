"""Learning rates against values worked out by hand."""

from __future__ import annotations

import math

import pytest

from mix_core.config import load_config
from mix_core.training.schedule import Schedule, schedule_of


def test_linear_falls_in_equal_parts_and_never_is_zero():
    rates = [Schedule("linear", 1.0, 4).rate(step) for step in range(1, 5)]
    assert rates == [1.0, 0.75, 0.5, 0.25]


def test_warm_up_rises_in_equal_parts_to_the_peak():
    schedule = Schedule("constant", 1.0, 10, warmup_steps=3)
    assert [schedule.rate(step) for step in range(1, 6)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    started = Schedule("constant", 1.0, 10, warmup_steps=1, warmup_start=0.5)
    assert started.rate(1) == 0.75 and started.rate(2) == 1.0


def test_cosine_is_half_way_in_the_middle_and_ends_above_the_lowest():
    schedule = Schedule("cosine", 1.0, 12, warmup_steps=2, lowest=0.2)
    assert schedule.rate(3) == 1.0
    assert schedule.rate(8) == pytest.approx(0.6)
    assert schedule.rate(12) == pytest.approx(0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * 0.9)))


@pytest.mark.parametrize(
    ("keys", "warmup"),
    [
        ({"warmup_ratio": "0.1"}, 10),
        ({"warmup_ratio": "0.1", "warmup_steps": "7"}, 7),
        ({"warmup_ratio": "0.001"}, 1),
        ({"warmup_steps": "1000"}, 100),
        ({}, 0),
    ],
)
def test_steps_of_warm_up_win_over_the_ratio(keys, warmup):
    assert schedule_of(load_config(arguments=keys), 100).warmup_steps == warmup


def test_names_of_constant():
    for name in ("constant", "constant_with_warmup"):
        assert schedule_of(load_config(arguments={"lr_scheduler_type": name}), 5).kind == "constant"
