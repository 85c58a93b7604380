"""Small training runs as a user starts them: inputs on disk, the real command, its exit code and lines."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.builders.checkpoints import write_checkpoint

TRAIN = (sys.executable, "-m", "mix_core.train")
STEPS = 8
ROWS = 10
LARGE = {"attention_dropout": 0.1, "intermediate_size": 8192}
"""A model with more parameters than one update going back takes (training/in_backward.py)."""


def write_data(folder: Path, rows: int = ROWS, **row: Any) -> Path:
    """Rows of several lengths, two of three with a picture -> folder/train.json. `row` changes the last."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for i in range(rows):
        pixels = np.random.default_rng(i).integers(0, 255, (56, 56, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        messages = [
            {"role": "user", "content": ("<image>" if i % 3 else "") + "What is it?"},
            {"role": "assistant", "content": f"it is {i}, " * (1 + i % 4)},
        ]
        written.append({"images": [f"{i}.png"] if i % 3 else [], "task": "name", "messages": messages})
    written[-1] |= row
    (folder / "train.json").write_text(json.dumps(written))
    return folder / "train.json"


def write_inputs(folder: Path, **keys: Any) -> Path:
    """A model folder without weights, data and a configuration of a few quick steps -> the configuration."""
    write_checkpoint(folder / "model", text={"attention_dropout": 0.1})
    data = write_data(folder / "data")
    config = {
        "model_name_or_path": str(folder / "model"),
        "from_scratch": True,
        "dataset": {"train": str(data)},
        "per_device_train_batch_size": 3,
        "max_steps": STEPS,
        "learning_rate": 1e-3,
        "weight_decay": 0.1,
        "save_steps": 2,
        "save_total_limit": 2,
        "max_length": 128,
        "logging_steps": 1,
        "output_dir": str(folder / "run"),
        **keys,
    }
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return path


def train(*words: Any, env: dict[str, str] | None = None, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    environ = {**os.environ, **(env or {})}
    command = [*TRAIN, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environ, timeout=300, **options)


def assert_refused(done: subprocess.CompletedProcess[str], code: int, *says: str) -> str:
    """The command ended with this code and one line of error that says all of `says` -> the line."""
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and done.stderr.rstrip().endswith(lines[0]), done.stderr
    missing = [text for text in says if text not in lines[0]]
    assert not missing, f"{missing} not in: {lines[0]}"
    return lines[0]


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def digests(checkpoint: Path) -> dict[str, str]:
    """Checksums of weights and optimizer state: two runs agree bit for bit when these do."""
    files = [
        checkpoint / "model.safetensors",
        *(checkpoint / "training_state").glob("optimizer-*.safetensors"),
    ]
    assert len(files) > 1
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
