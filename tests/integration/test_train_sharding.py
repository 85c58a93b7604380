"""Sharding as a user asks for it: ranks that share the training state train as one device does."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from mix_core.device import native
from mix_core.training.checkpoint import first_fault
from mix_core.training.state import StateReader
from tests.environment import clean_environment
from tests.integration.rank_runs import (
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return inputs(tmp_path_factory.mktemp("sharding"))


@pytest.fixture(scope="module")
def one(folder: Path) -> Path:
    return alone(folder, "one", 2)


@pytest.fixture(scope="module")
def stage2(folder: Path) -> Path:
    return on_ranks(folder, "stage2", 2, "--sharding", "stage2")


def test_two_devices_that_share_gradients_train_as_one(one, stage2):
    assert_same_run(stage2, one)


def test_each_rank_writes_its_part_of_a_checkpoint(one, stage2):
    """Every moment is there once, half of it from either rank, and is that of one device."""
    last = stage2 / f"checkpoint-{STEPS}"
    assert first_fault(last) is None
    found, wanted = StateReader(last), StateReader(one / f"checkpoint-{STEPS}")
    assert found.names("optimizer.") and set(found.names()) == set(wanted.names())
    assert found.manifest["state"]["ranks"] == 2
    files: dict[str, int] = {}
    for name in found.names("optimizer."):
        assert found.read(name) == pytest.approx(wanted.read(name), rel=1e-3, abs=1e-7), name
        for piece in found.entry(name)["pieces"]:
            files[piece["file"]] = files.get(piece["file"], 0) + 1
    assert set(files) == {f"optimizer{rank}-00001-of-00001.safetensors" for rank in ("", ".rank1")}


@pytest.fixture(scope="module")
def stage3(folder: Path) -> Path:
    return on_ranks(folder, "stage3", 2, "--sharding", "stage3")


def test_two_devices_that_share_parameters_train_as_one(one, stage3):
    assert_same_run(stage3, one)
    last = stage3 / f"checkpoint-{STEPS}"
    assert first_fault(last) is None
    kinds = {path.name.split("-")[0].split(".")[0] for path in (last / "training_state").iterdir()}
    assert kinds == {"optimizer", "random", "manifest"}, "parts of weights have become model.safetensors"


def test_what_is_shared_is_not_held(one, stage2, stage3):
    """Between steps, in bytes of N numbers on two devices: 12 N, 10 N (masters stand beside), 6 N."""
    held = [metrics(run)[-1]["memory_bytes"] for run in (one, stage2, stage3)]
    numbers = json.loads((one / "run.json").read_text())["model"]["learning"]
    assert held[0] - held[1] >= 2 * numbers
    assert held[1] - held[2] == pytest.approx(4 * numbers, rel=0.05)


def test_a_sharded_run_goes_on_on_one_device(folder, one, stage2):
    run = alone(folder, "shrunk", 2, "--resume", str(stage2 / "checkpoint-4"))
    wanted = {row["step"]: row["loss"] for row in metrics(one)}
    found = {row["step"]: row["loss"] for row in metrics(run)}
    assert found == pytest.approx({step: wanted[step] for step in (5, 6)}, rel=RELATIVE)
    assert json.loads((run / "run.json").read_text())["resumed_from"]["step"] == 4


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--sharding", "stage1", "--sharding_parallel_degree", "3"), ("degree 3 times", "does not make 2")),
        (("--sharding_parallel_degree", "2"), ("sharding names no stage", "stage1, stage2")),
        (("--sharding", "stage2", "--module_stats_steps", "1"), ("module_stats_steps wants whole",)),
    ],
    ids=["degree", "no stage", "statistics"],
)
def test_what_cannot_be_is_one_line_and_code_2(folder, words, says):
    assert_refused(train(folder, "bad", "--devices", "0,1", *words), 2, *says)


@pytest.mark.slow
def test_two_devices_that_share_moments_train_as_one(folder, one):
    assert_same_run(on_ranks(folder, "stage1", 2, "--sharding", "stage1"), one)


@pytest.mark.slow
def test_a_run_on_one_device_goes_on_sharded(folder, one):
    words = ("--sharding", "stage3", "--resume", str(one / "checkpoint-4"))
    run = on_ranks(folder, "grown", 2, *words)
    wanted = {row["step"]: row["loss"] for row in metrics(one)}
    found = {row["step"]: row["loss"] for row in metrics(run)}
    assert found == pytest.approx({step: wanted[step] for step in (5, 6)}, rel=RELATIVE)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["stage1", "stage2", "stage3"])
def test_ranks_without_a_picture_send_what_the_others_send(tmp_path, stage):
    """Rows 1, 4, 7 and 10 are text: a rank has a pass without a picture, or at an epoch's end none."""
    folder = inputs(tmp_path, per_device_train_batch_size=1, shuffle=False, recompute=True)
    words = ("--sharding", stage, "--gradient_accumulation_steps", "3")
    assert_same_run(on_ranks(folder, "two", 2, *words), alone(folder, "one", 6))


@pytest.mark.slow
def test_two_pairs_of_ranks_share_and_sum(tmp_path):
    folder = inputs(tmp_path, per_device_train_batch_size=1)
    words = ("--sharding", "stage3", "--sharding_parallel_degree", "2")
    assert_same_run(on_ranks(folder, "four", 4, *words), alone(folder, "one", 4))


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["stage2", "stage3"])
def test_masters_of_narrow_parameters_are_shared(folder, stage):
    words = ("--bf16", "--fp16_opt_level", "O2")
    two = on_ranks(folder, f"two-bf16-{stage}", 2, "--sharding", stage, *words)
    rows, wanted = metrics(two), metrics(alone(folder, f"one-bf16-{stage}", 2, *words))
    for key in ("loss", "grad_norm"):
        assert [row[key] for row in rows] == pytest.approx([row[key] for row in wanted], rel=1e-4)
    assert StateReader(two / f"checkpoint-{STEPS}").names("optimizer.master.")


def process_of_rank(rank: int, run: Path) -> int:
    """A process that has this rank in this run."""
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            words = (environ.parent / "cmdline").read_bytes().split(b"\0")
            variables = environ.read_bytes().split(b"\0")
            if f"PADDLE_TRAINER_ID={rank}".encode() in variables and str(run).encode() in words:
                return int(environ.parent.name)
    raise AssertionError(f"no process has rank {rank}")


@pytest.mark.slow
def test_a_full_disk_on_one_rank_leaves_the_last_checkpoint_whole(folder):
    """From the second step on, files of the second rank's process may not grow beyond 200 KiB."""
    run = folder / "full"
    with ThreadPoolExecutor() as pool:
        slowly = {"MIX_SIM_FAULTS": "rank:slow,rank=1,ms=250"}
        words = ("--devices", "0,1", "--sharding", "stage1")
        started = pool.submit(train, folder, "full", *words, **slowly)
        while not (run / "checkpoint-2").is_dir():
            assert not started.done(), started.result().stderr
            time.sleep(0.05)
        limit = (200 << 10, 200 << 10)
        resource.prlimit(process_of_rank(1, run), resource.RLIMIT_FSIZE, limit)
        says = ("rank 1", "checkpoint-4 could not be written", "no space left", "checkpoint-2 is")
        assert_refused(started.result(), 3, *says, "--resume auto")
    assert first_fault(run / "checkpoint-2") is None
    assert {path.name for path in run.glob("*checkpoint-*")} == {"checkpoint-2"}


@pytest.mark.slow
def test_gloo_on_two_processes_of_the_cpu(folder):
    """It has no reduce_scatter. Paddle's launcher starts them: --devices names accelerators."""
    words = [folder / "config.json", "--device", "cpu", "--output_dir"]
    train_alone = [sys.executable, "-m", "mix_core.train", *words, folder / "one-cpu"]
    launcher = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir"]
    ranks = [*launcher, folder / "logs-cpu", sys.executable, "-u", "-m", "mix_core.train", *words]
    for command in (
        [*train_alone, "--gradient_accumulation_steps", "2"],
        [*ranks, folder / "two-cpu", "--sharding", "stage2"],
    ):
        done = subprocess.run(
            list(map(str, command)), env=clean_environment(), cwd=folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert_same_run(folder / "two-cpu", folder / "one-cpu")
