"""InternVL2 learns the digits: whole, with a frozen tower, packed; on the CPU and on a simulated chip."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mix_core.device import native
from mix_core.models.common.tensor_files import read_folder
from tests.environment import run_simulated
from tests.goldens.make_internvl2_curve import CASES, FILE
from tests.integration.internvl2_runs import STEPS, losses, write_run
from tests.integration.training_runs import train

GOLDEN = json.loads(FILE.read_text())
COMPILED = pytest.mark.skipif(native.find_compiler()[0] is None, reason=native.find_compiler()[1])
TRAIN = ("-m", "mix_core.train")


def run(folder: Path, *words: str, **keys: object) -> Path:
    done = train(write_run(folder, **keys), "--device", "cpu", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "run"


def test_the_first_steps_follow_the_golden_curve(tmp_path: Path) -> None:
    steps = 6
    found = losses(run(tmp_path, "--kernels", "reference", lr_scheduler_type="constant", max_steps=steps))
    assert found[:2] == pytest.approx(GOLDEN["full"][:2], rel=1e-5), "the schedule's first rate is the same"
    assert len(found) == steps and found == sorted(found, reverse=True)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_golden_curve(tmp_path: Path, case: str) -> None:
    found = losses(run(tmp_path, "--kernels", "reference", **CASES[case]))
    assert found == pytest.approx(GOLDEN[case], rel=1e-4)
    assert found[-1] < 0.7 * found[0]


@pytest.mark.slow
def test_a_frozen_tower_stays_and_the_rest_learns(tmp_path: Path) -> None:
    """The first checkpoint and the last: of the tower nothing changes, of the rest everything does."""
    folder = run(tmp_path, "--kernels", "reference", freeze_vit=True, max_steps=3, save_steps=1)
    first, last = (read_folder(folder / f"checkpoint-{step}") for step in (1, 3))
    assert set(first) == set(last)
    for name, tensor in last.items():
        same = bool(np.array_equal(tensor.read(), first[name].read()))
        assert same is name.startswith("vision_model."), name


@pytest.mark.slow
@COMPILED
@pytest.mark.parametrize("case", CASES)
def test_the_simulated_chip_follows_the_cpu(tmp_path: Path, case: str) -> None:
    path = write_run(tmp_path, **CASES[case])
    for name, simulate in (("cpu", "0"), ("npu", "1")):
        words = [*TRAIN, path, "--output_dir", tmp_path / name, "--device", name]
        done = run_simulated(words, tmp_path, MIX_SIMULATE=simulate)
        assert done.returncode == 0, done.stdout + done.stderr
    on_cpu, on_npu = losses(tmp_path / "cpu"), losses(tmp_path / "npu")
    assert len(on_cpu) == STEPS and on_npu == on_cpu
    assert on_cpu == pytest.approx(GOLDEN[case], rel=2e-3)


@pytest.mark.slow
def test_packed_rows_learn_and_a_checkpoint_answers(tmp_path: Path) -> None:
    import sys

    from tests.integration.training_runs import subprocess

    folder = run(
        tmp_path, "--kernels", "reference", mixtoken=True, per_device_train_batch_size=3, max_length=400
    )
    found = losses(folder)
    assert found[-1] < 0.8 * found[0]
    words = ["infer", "--model", folder / f"checkpoint-{STEPS}", "--image", tmp_path / "data" / "digit-0.png"]
    words += ["--prompt", "Which digit is this?", "--max_new_tokens", "4", "--device", "cpu"]
    words += ["--kernels", "reference", "--json"]
    command = [sys.executable, "-m", "mix_core.cli.main", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "text" in json.loads(done.stdout)
