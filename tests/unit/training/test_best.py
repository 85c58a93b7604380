"""The best step, patience and threshold; and the best checkpoint among those that are kept."""

from __future__ import annotations

import json
import math

import pytest

from mix_core.config import load_config
from mix_core.errors import ConfigError
from mix_core.training import state
from mix_core.training.best import Best, best_of
from mix_core.training.checkpoint import checkpoint_step, list_checkpoints, rotate, save_checkpoint

ASKED = {"evaluation_strategy": "steps"}


def config(**keys: str):
    return load_config(arguments=ASKED | keys)


def run(best: Best, values: list[float]) -> list[bool]:
    return [best.update(step, {best.metric: value}) for step, value in enumerate(values, 1)]


def test_less_loss_is_better_and_ties_are_none():
    best = Best("loss", greater=False, patience=2)
    assert run(best, [3.0, 2.0, 2.0, 1.5]) == [True, True, False, True]
    assert (best.step, best.value, best.waited) == (4, 1.5, 0)


def test_patience_ends_with_evaluations_in_a_row():
    best = Best("exact", greater=True, patience=2)
    run(best, [0.5, 0.4])
    assert not best.exhausted
    run(best, [0.3])
    assert best.exhausted and best.step == 1
    assert "has not improved on 0.5, of step 1, in 2 evaluations" in best.in_words()


def test_a_gain_within_the_threshold_is_the_best_but_no_improvement():
    best = Best("loss", greater=False, patience=3, threshold=0.1)
    assert run(best, [1.0, 0.95, 0.91]) == [True, True, True]
    assert best.waited == 2 and best.step == 3 and not best.exhausted


def test_what_is_not_finite_is_never_the_best():
    best = Best("loss", greater=False, patience=2)
    assert run(best, [math.nan, 2.0, math.inf, -math.inf]) == [False, True, False, False]
    assert best.exhausted


def test_state_goes_through_json():
    best = Best("loss", greater=False, patience=3)
    run(best, [2.0, 3.0])
    again = Best("loss", greater=False, patience=3)
    again.load(json.loads(json.dumps(best.state())))
    assert again == best
    other = Best("exact", greater=True)
    other.load(best.state())
    assert other.step is None and other.waited == 0


def test_what_configurations_ask_for():
    names = ["digit_exact", "loss"]
    assert best_of(config(), names) is None
    assert best_of(load_config(arguments={"metric_for_best_model": "loss"}), names) is None
    assert best_of(config(load_best_model_at_end="true"), names) == Best("loss", greater=False)
    found = best_of(config(metric_for_best_model="eval_digit_exact", early_stopping_patience="3"), names)
    assert found == Best("digit_exact", greater=True, patience=3)
    assert not best_of(config(metric_for_best_model="digit_exact", greater_is_better="false"), names).greater
    with pytest.raises(
        ConfigError, match="metric_for_best_model is f1, and evaluation gives digit_exact, loss"
    ):
        best_of(config(metric_for_best_model="f1"), names)
    with pytest.raises(ConfigError, match="no held-out rows"):
        best_of(config(early_stopping_patience="1"), [])
    with pytest.raises(ConfigError, match="early_stopping_patience needs evaluation during training"):
        load_config(arguments={"early_stopping_patience": "1"})


@pytest.mark.parametrize(
    "limit, best, kept",
    [
        (None, 10, [10, 20, 30, 40]),
        (2, None, [30, 40]),
        (2, 10, [10, 40]),
        (3, 10, [10, 30, 40]),
        (2, 30, [30, 40]),
        (1, 20, [20, 40]),
        (1, 40, [40]),
        (2, 15, [30, 40]),
    ],
)
def test_rotation_keeps_the_best(tmp_path, limit, best, kept):
    def write(folder):
        (folder / state.FOLDER).mkdir()
        state.write_manifest(folder / state.FOLDER, 1, {}, {})

    for step in (10, 20, 30, 40):
        save_checkpoint(tmp_path, step, write)
    rotate(tmp_path, limit, best)
    assert [checkpoint_step(path) for path in list_checkpoints(tmp_path)] == kept
