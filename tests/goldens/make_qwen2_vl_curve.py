"""Write qwen2_vl_curve.json: losses of 20 steps on the digits, a small Qwen2-VL from scratch in float32.

    python -m tests.goldens.make_qwen2_vl_curve

Run from the root after a change that is meant to change the curve.
tests/integration/test_qwen2_vl_training.py holds runs to it.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from tests.builders.digits_rows import write_digits_rows
from tests.builders.qwen2_vl import write_digits_folder
from tests.integration.training_runs import metrics, train

FILE = Path(__file__).parent / "qwen2_vl_curve.json"
STEPS = 20


def write_run(folder: Path, **keys: Any) -> Path:
    """A model folder, rows and a configuration -> the configuration, which `train` takes."""
    config = {
        "model_name_or_path": str(write_digits_folder(folder / "model")),
        "from_scratch": True,
        "dataset": {"train": str(write_digits_rows(folder / "data"))},
        "per_device_train_batch_size": 6,
        "max_steps": STEPS,
        "learning_rate": 2e-3,
        "lr_scheduler_type": "cosine",
        "warmup_ratio": 0.1,
        "max_length": 128,
        "save_strategy": "no",
        "output_dir": str(folder / "run"),
        **keys,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder / "config.json"


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in metrics(run) if "loss" in line]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        done = train(write_run(Path(folder)), "--device", "cpu")
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
        curve = losses(Path(folder) / "run")
    FILE.write_text(json.dumps({"steps": STEPS, "loss": curve}, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {FILE}: {curve[0]:.4f} to {curve[-1]:.4f}")


if __name__ == "__main__":
    main()
