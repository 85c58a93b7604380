"""A Qwen-VL folder, a few rows of the digits in Qwen-VL's own form, and the configuration of a short run."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from mix_core.data.digits import PROMPTS, make_pictures
from tests.builders.qwen_vl import write_qwen_vl

EACH = 6
"""Rows of each task."""
STEPS = 20


def write_rows(folder: Path, each: int = EACH) -> Path:
    """Rows of all three tasks in turn -> folder/train.json; a box comes with the name of what is in it."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {task: list(islice(make_pictures("train", task), each)) for task in PROMPTS}
    rows = []
    for number in range(each):
        for task, prompt in PROMPTS.items():
            picture = pictures[task][number]
            name = f"{task}-{number}.png"
            Image.fromarray(picture.pixels_HW).save(folder / name)
            named = "<ref>the 7</ref>" if task == "box" else ""
            turns = [
                {"from": "user", "value": f"Picture 1: <img>{name}</img>\n{prompt}"},
                {"from": "assistant", "value": named + picture.answer},
            ]
            rows.append({"id": name, "task": task, "conversations": turns})
    (folder / "train.json").write_text(json.dumps(rows, ensure_ascii=False))
    return folder / "train.json"


def write_run(folder: Path, **keys: Any) -> Path:
    """Everything that a run from scratch needs, under `folder` -> its configuration."""
    write_qwen_vl(folder / "model")
    config = {
        "model_name_or_path": str(folder / "model"),
        "from_scratch": True,
        "dataset": {"train": str(write_rows(folder / "data"))},
        "per_device_train_batch_size": 3,
        "max_steps": STEPS,
        "learning_rate": 2e-3,
        "warmup_ratio": 0.0,
        "max_length": 128,
        "logging_steps": 1,
        "save_strategy": "no",
        "output_dir": str(folder / "run"),
        **keys,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder / "config.json"
