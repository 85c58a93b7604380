"""Qwen2-VL trained on the digits as a user does it: whole and with a frozen tower, CPU and simulated chip."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mix_core.device import native
from mix_core.models.common.tensor_files import read_folder
from tests.environment import ONE_THREAD, run_simulated
from tests.goldens.make_qwen2_vl_curve import FILE, STEPS, losses, write_run
from tests.integration.training_runs import TRAIN, train

SHORT = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 2}


def run(config: Path, env: dict[str, str] | None = None) -> Path:
    """Train on the CPU -> the run's folder."""
    done = train(config, "--device", "cpu", env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return config.parent / "run"


def weights(folder: Path) -> dict[str, np.ndarray]:
    return {name: tensor.read() for name, tensor in read_folder(folder).items()}


def test_a_whole_run_follows_the_golden_curve_and_leaves_a_published_folder(tmp_path: Path) -> None:
    finished = run(write_run(tmp_path, save_strategy="steps", save_steps=STEPS))
    golden = json.loads(FILE.read_text())["loss"]
    assert len(golden) == STEPS and golden[-1] < 0.5 * golden[0]
    np.testing.assert_allclose(losses(finished), golden, rtol=1e-4)

    transformers = pytest.importorskip("transformers", reason="must load the checkpoint")
    kind = transformers.Qwen2VLForConditionalGeneration
    _, report = kind.from_pretrained(finished / f"checkpoint-{STEPS}", output_loading_info=True)
    assert not any(report.values()), report


def test_with_a_frozen_tower_only_the_rest_learns(tmp_path: Path) -> None:
    finished = run(
        write_run(tmp_path, freeze_vit=True, freeze_exclude=["visual.merger.*"], mixtoken=True, **SHORT)
    )
    before, after = (weights(finished / f"checkpoint-{step}") for step in (2, 4))
    same = {name for name in before if np.array_equal(before[name], after[name])}
    assert same == {n for n in before if n.startswith("visual.") and not n.startswith("visual.merger.")}


@pytest.mark.slow
@pytest.mark.skipif(native.find_compiler()[0] is None, reason=native.find_compiler()[1])
@pytest.mark.parametrize("frozen", [False, True], ids=["full", "frozen tower"])
def test_the_simulated_chip_gives_the_cpu_s_losses(tmp_path: Path, frozen: bool) -> None:
    config = write_run(tmp_path, freeze_vit=frozen)
    on_cpu = losses(run(config, env=ONE_THREAD))  # as there: bits hold for one number of threads
    words = [*TRAIN[1:], config, "--device", "npu", "--output_dir", tmp_path / "npu"]
    done = run_simulated(words, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "npu" / "run.json").read_text())["device"]["simulated"] is True
    assert len(on_cpu) == STEPS and losses(tmp_path / "npu") == on_cpu
    if not frozen:
        np.testing.assert_allclose(on_cpu, json.loads(FILE.read_text())["loss"], rtol=1e-4)
