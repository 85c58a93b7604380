"""Runs over several simulated devices as a user starts them, and how they must agree with one device's."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.builders.checkpoints import write_checkpoint
from tests.environment import run_simulated
from tests.integration.training_runs import metrics, write_inputs

TRAIN = ("-m", "mix_core.train")
STEPS = 6
LONG = 20
RELATIVE = 1e-5
IDLE = "self_attn.k_proj.bias"
"""It drops out of the softmax."""


def inputs(folder: Path, **keys: object) -> Path:
    """Epochs of ten rows: five passes of two, so that some steps have fewer passes than others."""
    defaults = {"per_device_train_batch_size": 2, "max_steps": STEPS, "adam_epsilon": 1e-6}
    write_inputs(folder, **(defaults | keys))
    return folder


def write_learned(model: Path, **parts: Any) -> None:
    """A checkpoint to go on from: its biases are not zero, as those of a model that learned are not."""
    write_checkpoint(model, text={"attention_dropout": 0.1}, weights=True, **parts)
    file = model / "model.safetensors"
    weights, draws = load_file(file), np.random.default_rng(0)
    for name, values in weights.items():
        if name.endswith(".bias"):
            weights[name] = 0.1 * draws.standard_normal(values.shape, dtype=np.float32)
    save_file(weights, file, metadata={"format": "pt"})


def train(folder: Path, name: str, *words: str, device: str = "npu", **options):
    command = [*TRAIN, folder / "config.json", "--output_dir", folder / name, "--device", device, *words]
    return run_simulated(command, folder, device=device, **options)


def succeed(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def on_ranks(folder: Path, name: str, ranks: int, *words: str, **options: str) -> Path:
    devices = ",".join(map(str, range(ranks)))
    succeed(train(folder, name, "--devices", devices, *words, **options))
    return folder / name


def alone(folder: Path, name: str, passes: int, *words: str, **options: str) -> Path:
    """The same global batch on one device."""
    succeed(train(folder, name, "--gradient_accumulation_steps", str(passes), *words, **options))
    return folder / name


def assert_same_run(
    run: Path,
    other: Path,
    steps: int = STEPS,
    idle: str | None = None,
    written: str = "model.safetensors",
    resumed: int = 0,
) -> None:
    """Losses, gradient norms and the last weights agree; tokens and epochs are equal.

    `idle`: how names end of parameters that cannot affect the output: what they learn is rounding alone.
    `written`: the file of what learned, in a checkpoint. `resumed`: the step after which both went on.
    """
    rows, others = metrics(run), metrics(other)
    assert len(rows) == len(others) == steps - resumed
    for row, wanted in zip(rows, others):
        assert row["loss"] == pytest.approx(wanted["loss"], rel=RELATIVE)
        assert row["grad_norm"] == pytest.approx(wanted["grad_norm"], rel=RELATIVE)
        assert (row["label_tokens"], row["epoch"]) == (wanted["label_tokens"], wanted["epoch"])
    file = f"checkpoint-{steps}/{written}"
    weights, wanted = load_file(run / file), load_file(other / file)
    assert weights.keys() == wanted.keys()
    for name, values in weights.items():
        if idle is not None and name.endswith(idle):
            continue
        away = np.linalg.norm(values - wanted[name])
        assert away <= RELATIVE * np.linalg.norm(wanted[name]), (name, away)
