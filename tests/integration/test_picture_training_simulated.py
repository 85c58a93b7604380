"""Text to image trained on simulated chips, in float32 and 16 bits, and resumed, against the CPU."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from mix_core.device import native
from tests.environment import run_simulated
from tests.integration.training_runs import metrics

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(native.find_compiler()[0] is None, reason=native.find_compiler()[1]),
]
STEPS = 6
LIMITS = {"no": 1e-4, "fp16": 2e-2, "bf16": 5e-2}
"""Relative, of a step's loss."""
WORDS = (
    *("-m", "mix_core.train", "--recipe", "digits-t2i", "--max_steps", str(STEPS), "--scored_digits", "0"),
    *("--per_device_train_batch_size", "4", "--save_steps", "3", "--warmup_steps", "0"),
    *("--learning_rate", "1e-3", "--random_flip", "true"),
)


def train(folder: Path, name: str, device: str, *words: str) -> Path:
    run = folder / name
    command = [*WORDS, "--device", device, "--output_dir", run, *words]
    if device == "cpu":
        done = run_simulated(command, folder, MIX_SIMULATE="0")
    else:
        done = run_simulated(command, folder, device=device)
    assert done.returncode == 0, done.stderr
    return run


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in metrics(run) if "loss" in line]


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("pictures"), "cpu", "cpu")


@pytest.mark.parametrize("device", ["npu", "xpu", "gpu"])
def test_curves_are_the_cpus(device: str, on_cpu: Path) -> None:
    expected = losses(on_cpu)
    assert len(expected) == STEPS and expected[-1] < expected[0]
    for precision, limit in LIMITS.items():
        run = train(on_cpu.parent, f"{device}-{precision}", device, "--mixed_precision", precision)
        np.testing.assert_allclose(losses(run), expected, rtol=limit, err_msg=precision)


def test_a_resumed_run_is_the_same_to_the_bit(on_cpu: Path) -> None:
    """Mean of the weights, text encoder and moments."""
    rest = train(on_cpu.parent, "rest", "cpu", "--resume", str(on_cpu / "checkpoint-3"))
    assert losses(rest) == losses(on_cpu)[3:]
    names = [path.relative_to(on_cpu) for path in (on_cpu / f"checkpoint-{STEPS}").rglob("*.safetensors")]
    assert len(names) >= 4
    for name in names:
        first, second = (hashlib.sha256((run / name).read_bytes()).hexdigest() for run in (on_cpu, rest))
        assert first == second, name
