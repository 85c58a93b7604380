"""A run that goes wrong on its way: signals, a full disk, a loss that is not finite. Exit codes 130 and 3."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mix_core.training.checkpoint import first_fault, list_checkpoints
from tests.integration.training_runs import TRAIN, assert_refused, digests, metrics, train, write_inputs


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("inputs"), max_steps=400, save_steps=300)


def started(*words: Any, until: str) -> subprocess.Popen[str]:
    """Start a run and wait until a line of its stderr begins with `until`."""
    process = subprocess.Popen(
        [*TRAIN, *map(str, words)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(until):
            return process
    raise AssertionError(f"the run ended before {until!r}: {process.wait()}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(config, tmp_path, number):
    run = tmp_path / "run"
    process = started(config, "--output_dir", run, until="step   5/400")
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err, err
    assert "finishing this step" in err
    (saved,) = list_checkpoints(run)
    step = metrics(run)[-1]["step"]
    assert saved.name == f"checkpoint-{step}" and first_fault(saved) is None
    assert f"stopped after step {step} of 400" in out and f"python -m mix_core.train {config}" in out
    assert out.rstrip().endswith("--resume auto")
    assert json.loads((run / "run.json").read_text())["status"] == "interrupted"

    whole = train(
        config, "--output_dir", tmp_path / "whole", "--max_steps", step + 3, "--lr_scheduler", "constant"
    )
    again = train(
        config, "--output_dir", run, "--resume", "auto", "--max_steps", step + 3, "--learning_rate", "0"
    )
    assert whole.returncode == again.returncode == 0, again.stderr
    assert [row["step"] for row in metrics(run)] == list(range(1, step + 4))


def test_a_second_signal_stops_at_once(config, tmp_path):
    run = tmp_path / "run"
    process = started(config, "--output_dir", run, until="step   5/400")
    process.send_signal(signal.SIGSTOP)  # so that both signals are there before the step is over
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err, err
    assert "stopped at once; nothing is saved" in err
    assert list_checkpoints(run) == [] and not list(run.glob(".checkpoint-*"))
    assert json.loads((run / "run.json").read_text())["status"] == "interrupted"


def test_a_data_worker_that_dies_loses_nothing(config, tmp_path):
    run = tmp_path / "run"
    words = (config, "--output_dir", run, "--dataloader_num_workers", 1)
    process = started(*words, until="step   5/400")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGSTOP)
    for child in children:
        os.kill(int(child), signal.SIGKILL)
    process.send_signal(signal.SIGCONT)
    _, err = process.communicate(timeout=60)
    if process.returncode == 0:
        pytest.skip("all samples were cached before the worker was asked again")
    assert process.returncode == 3 and "Traceback" not in err and "is saved" in err, err
    assert first_fault(list_checkpoints(run)[-1]) is None


def test_two_runs_do_not_share_a_folder(config, tmp_path):
    run = tmp_path / "run"
    process = started(config, "--output_dir", run, until="step   1/400")
    try:
        done = train(config, "--output_dir", run, "--resume", "auto")
        assert_refused(done, 2, "is in use by a run", str(process.pid))
    finally:
        process.kill()
        process.communicate()


def test_a_loss_that_is_not_finite_names_step_and_tensor_and_keeps_the_checkpoint(config, tmp_path):
    run = tmp_path / "run"
    assert train(config, "--output_dir", run, "--max_steps", 4, "--save_steps", 2).returncode == 0
    before = digests(run / "checkpoint-4")
    done = train(
        config, "--output_dir", run, "--resume", "auto", "--max_steps", 20, "--learning_rate", "1e30"
    )
    says = (
        "step 6: ",
        "the first ",
        " that is not finite",
        "checkpoint-4 is the last good checkpoint",
        "learning_rate",
    )
    assert_refused(done, 3, *says)
    assert [path.name for path in list_checkpoints(run)] == ["checkpoint-2", "checkpoint-4"]
    assert digests(run / "checkpoint-4") == before and first_fault(run / "checkpoint-4") is None
    assert json.loads((run / "run.json").read_text())["status"] == "failed"
    assert [row["step"] for row in metrics(run)] == [1, 2, 3, 4, 5]


def test_a_mistake_with_overwrite_removes_nothing(config, tmp_path):
    run = tmp_path / "run"
    assert train(config, "--output_dir", run, "--max_steps", 2).returncode == 0
    before = sorted(path.name for path in run.iterdir())
    for mistake in (
        ["--dataset", tmp_path / "gone.json"],
        ["--device", "nosuch"],
        ["--freeze_include", "nosuch"],
    ):
        done = train(config, "--output_dir", run, "--overwrite_output_dir", *mistake)
        assert done.returncode in (1, 2), done.stderr
        assert sorted(path.name for path in run.iterdir()) == before
        assert json.loads((run / "run.json").read_text())["status"] == "finished"


def limited() -> None:
    """Files of this process may not grow beyond 200 kB: the system refuses as it does on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))


def test_a_full_disk_during_a_checkpoint(config, tmp_path):
    run = tmp_path / "run"
    assert train(config, "--output_dir", run, "--max_steps", 4).returncode == 0
    before = digests(run / "checkpoint-4")
    words = (config, "--output_dir", run, "--resume", "auto", "--max_steps", 8)
    done = train(*words, preexec_fn=limited)
    assert_refused(
        done,
        3,
        "checkpoint-8 could not be written",
        "no space left",
        "checkpoint-4 is whole",
        "--resume auto",
    )
    assert digests(run / "checkpoint-4") == before and not list(run.glob(".checkpoint-*"))
    assert train(*words).returncode == 0
    assert first_fault(run / "checkpoint-8") is None


def test_a_full_disk_is_told_by_the_step_after_while_training_goes_on(config, tmp_path):
    """The write is in the background: the run ends where it looks next, long before its last step."""
    words = ("--output_dir", tmp_path / "run", "--save_steps", 2, "--max_steps", 200)
    done = train(config, *words, preexec_fn=limited)
    assert_refused(done, 3, "checkpoint-2 could not be written", "no space left", "there is no earlier one")
    assert 2 < len(metrics(tmp_path / "run")) < 100
    assert not list((tmp_path / "run").glob("*checkpoint*"))


@pytest.fixture
def small_disk(tmp_path) -> Path:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no right to mount a small file system: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_of_one_mebibyte(config, small_disk):
    done = train(config, "--output_dir", small_disk / "run", "--max_steps", 2)
    assert_refused(done, 3, "checkpoint-2 could not be written", "no space left", "there is no earlier one")
    assert not list((small_disk / "run").glob("*checkpoint*"))
    filler = small_disk / "filler"
    with open(filler, "wb") as file:
        file.write(b"x" * (os.statvfs(small_disk).f_bavail * 4096 - 8192))
    done = train(config, "--output_dir", small_disk / "other", "--max_steps", 200, "--save_strategy", "no")
    assert_refused(done, 3, "no space left")
