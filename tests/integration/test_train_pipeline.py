"""Pipeline parallel training as a user asks for it: stages of a model train as one device does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mix_core.device import native
from mix_core.training.checkpoint import first_fault
from mix_core.training.state import StateReader
from tests.integration.test_train_ranks import (
    RELATIVE,
    STEPS,
    alone,
    assert_same_run,
    inputs,
    on_ranks,
    train,
)
from tests.integration.training_runs import assert_refused, metrics

pytestmark = pytest.mark.skipif(native.find_compiler()[0] is None, reason=native.find_compiler()[1])
PIPELINE = ("--pipeline_parallel_degree", "2")
PASSES = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rows a pass, of which some are text alone; an epoch ends with a step of fewer passes."""
    return inputs(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="module")
def one(folder: Path) -> Path:
    return alone(folder, "one", PASSES)


@pytest.fixture(scope="module")
def two(folder: Path) -> Path:
    return on_ranks(folder, "two", 2, *PIPELINE, "--gradient_accumulation_steps", str(PASSES))


def test_two_stages_train_as_one_device(one, two):
    assert_same_run(two, one)
