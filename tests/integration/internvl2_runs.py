"""Short runs of a small InternVL2 on the digits, as a user starts them."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from mix_core.data.digits import PROMPTS, make_pictures
from tests.builders.internvl2_checkpoints import write_folder
from tests.integration.training_runs import metrics

STEPS = 20
OF_EACH_TASK = 10


def write_digits(folder: Path) -> Path:
    """The first pictures of each task as rows -> folder/train.json."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for task, prompt in PROMPTS.items():
        for number, picture in enumerate(islice(make_pictures("train", task), OF_EACH_TASK)):
            Image.fromarray(picture.pixels_HW).save(folder / f"{task}-{number}.png")
            messages = [
                {"role": "user", "content": f"<image>\n{prompt}"},
                {"role": "assistant", "content": picture.answer},
            ]
            rows.append({"images": [f"{task}-{number}.png"], "task": task, "messages": messages})
    (folder / "train.json").write_text(json.dumps(rows))
    return folder / "train.json"


def write_run(folder: Path, **keys: Any) -> Path:
    """A model folder without weights, data and a configuration -> the configuration.

    Tiles of 24 pixels: a digit is one tile, a number up to five with its thumbnail. The tower has stochastic
    depth, and learned positions for 18 pixels that are resized.
    """
    write_folder(
        folder / "model",
        force_image_size=24,
        max_dynamic_patch=4,
        vision={"patch_size": 6, "image_size": 18, "drop_path_rate": 0.1},
    )
    config = {
        "model_name_or_path": str(folder / "model"),
        "from_scratch": True,
        "dataset": {"train": str(write_digits(folder / "data"))},
        "per_device_train_batch_size": 6,
        "max_steps": STEPS,
        "learning_rate": 3e-3,
        "max_length": 320,
        "logging_steps": 1,
        "save_steps": STEPS,
        "output_dir": str(folder / "run"),
        **keys,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder / "config.json"


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in metrics(run) if "loss" in line]
