"""A run killed at any moment and resumed ends with the same bits as one that nothing disturbed."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from mix_core.training.checkpoint import first_fault, list_checkpoints
from mix_core.training.faults import PLACES
from tests.integration.training_runs import STEPS, assert_refused, digests, metrics, train, write_inputs


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def undisturbed(config) -> Path:
    """The run folder of a run from start to end."""
    run = config.parent / "undisturbed"
    done = train(config, "--output_dir", run)
    assert done.returncode == 0, done.stderr
    return run


def test_the_undisturbed_run_is_complete(undisturbed):
    assert [row["step"] for row in metrics(undisturbed)] == list(range(1, STEPS + 1))
    assert [path.name for path in list_checkpoints(undisturbed)] == ["checkpoint-6", "checkpoint-8"]
    record = json.loads((undisturbed / "run.json").read_text())
    assert record["status"] == "finished" and record["resumed_from"] is None
    assert record["configuration"]["max_steps"] == STEPS and record["versions"]["paddlepaddle"]
    assert {"name", "value", "reason", "source"} <= set(record["device"]["settings"][0])
    assert record["data"]["train"]["rows"] == 10 and len(record["data"]["train"]["files"]) == 1


@pytest.mark.parametrize(
    "place",
    [
        "start",
        "forward:4",
        "step:5",
        "checkpoint-weights:1",
        "checkpoint-weights:3",
        "checkpoint-state:2",
        "checkpoint-renamed:2",
        "rotation:1",
        "end",
    ],
)
def test_killed_and_resumed_ends_with_the_same_bits(config, undisturbed, tmp_path, place):
    run = tmp_path / "run"
    killed = train(config, "--output_dir", run, env={"MIX_KILL_AT": place})
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert all(first_fault(path) is None for path in list_checkpoints(run))
    done = train(config, "--output_dir", run, "--resume", "auto")
    assert done.returncode == 0, done.stderr
    last = f"checkpoint-{STEPS}"
    assert digests(run / last) == digests(undisturbed / last)
    assert [path.name for path in list_checkpoints(run)] == ["checkpoint-6", last]
    assert [row["step"] for row in metrics(run)] == list(range(1, STEPS + 1))
    losses = [[row["loss"] for row in metrics(folder)] for folder in (run, undisturbed)]
    assert losses[0] == losses[1]
    assert not list(run.glob(".checkpoint-*"))


def test_every_place_of_a_kill_is_tried():
    tried = next(mark for mark in test_killed_and_resumed_ends_with_the_same_bits.pytestmark).args[1]
    assert {place.partition(":")[0] for place in tried} == set(PLACES)


def test_killed_twice(config, undisturbed, tmp_path):
    run = tmp_path / "run"
    for place in ("step:3", "checkpoint-state:2"):
        train(config, "--output_dir", run, "--resume", "auto", env={"MIX_KILL_AT": place})
    assert train(config, "--output_dir", run, "--resume", "auto").returncode == 0
    assert digests(run / f"checkpoint-{STEPS}") == digests(undisturbed / f"checkpoint-{STEPS}")


def test_a_damaged_newest_checkpoint_is_passed_over_with_a_line(config, undisturbed, tmp_path):
    run = tmp_path / "run"
    train(config, "--output_dir", run, env={"MIX_KILL_AT": "checkpoint-weights:3"})
    weights = run / "checkpoint-4/model.safetensors"
    flipped = bytearray(weights.read_bytes())
    flipped[-7] ^= 1
    weights.write_bytes(flipped)
    named = train(config, "--output_dir", run, "--resume", "4")
    says = (f"{weights} is damaged", "checkpoint-2 before it is whole: --resume")
    assert_refused(named, 2, *says)
    done = train(config, "--output_dir", run, "--resume", "auto")
    assert done.returncode == 0 and "passing over checkpoint-4: " in done.stderr
    assert digests(run / f"checkpoint-{STEPS}") == digests(undisturbed / f"checkpoint-{STEPS}")


def test_a_finished_run_is_shown_and_not_trained_again(config, undisturbed):
    before = (undisturbed / "metrics.jsonl").stat().st_mtime_ns
    done = train(config, "--output_dir", undisturbed, "--resume", "auto")
    assert done.returncode == 0 and "is trained already" in done.stdout and "report.html" in done.stdout
    assert (undisturbed / "metrics.jsonl").stat().st_mtime_ns == before


def test_a_step_or_a_path_to_go_on_from(config, undisturbed, tmp_path):
    refused = train(config, "--output_dir", undisturbed, "--resume", "6")
    assert_refused(
        refused, 2, "holds checkpoint-8, after step 6", "--overwrite_output_dir true", "--output_dir"
    )
    assert_refused(
        train(config, "--output_dir", undisturbed, "--resume", "5"), 2, "no checkpoint of step 5", "6, 8"
    )
    run = tmp_path / "elsewhere"
    done = train(config, "--output_dir", run, "--resume", undisturbed / "checkpoint-6")
    assert done.returncode == 0, done.stderr
    assert digests(run / f"checkpoint-{STEPS}") == digests(undisturbed / f"checkpoint-{STEPS}")
    assert json.loads((run / "run.json").read_text())["resumed_from"]["step"] == 6
    done = train(
        config, "--output_dir", run, "--resume", undisturbed, "--overwrite_output_dir", "--max_steps", 9
    )
    assert done.returncode == 0 and "another max_steps: 9, was 8" in done.stderr, done.stderr
    assert [path.name for path in list_checkpoints(run)] == ["checkpoint-9"]


def test_a_checkpoint_of_another_model_is_refused(config, undisturbed, tmp_path):
    other = write_inputs(tmp_path, output_dir=str(tmp_path / "other"))
    changed = json.loads((tmp_path / "model/config.json").read_text())
    changed["num_hidden_layers"] += 1
    (tmp_path / "model/config.json").write_text(json.dumps(changed))
    done = train(other, "--resume", undisturbed / "checkpoint-6")
    assert_refused(done, 2, "is a checkpoint of another model", "num_hidden_layers is 2, there 3")


def test_what_is_not_saved_is_not_there_and_what_is_not_loaded_has_no_say(config, tmp_path):
    run = tmp_path / "run"
    bare = ("--no-save-optim", "--save_random_state", "false", "--max_steps", "4")
    assert train(config, "--output_dir", run, *bare).returncode == 0
    names = sorted(path.name for path in (run / "checkpoint-4/training_state").iterdir())
    assert names == ["manifest.json"]
    again = train(config, "--output_dir", run, "--resume", "auto")
    assert_refused(again, 2, "no optimizer state", "--load_optimizer false")
    done = train(config, "--output_dir", run, "--resume", "auto", "--no-load-optim")
    assert done.returncode == 0, done.stderr
    assert metrics(run)[-1]["step"] == STEPS
