"""Small training runs of LLaVA on the digits: 1.5 with one tile a picture, 1.6 with any resolution."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from mix_core.data.digits import PROMPTS, make_pictures
from tests.builders.llava import write_llava

KINDS = ("1.5", "1.6")
STEPS = 20
ROWS_OF_A_TASK = 30
SIDE = 24
"""Of a tile: the smallest picture of the data, so that LLaVA-1.6 cuts the others into several."""


def write_run(folder: Path, kind: str, **keys: Any) -> Path:
    """A model folder without weights, the digits and a configuration of a few quick steps -> the latter."""
    pinpoints = [[SIDE * rows, SIDE * columns] for rows, columns in ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))]
    anyres = {"anyres": True, "image_grid_pinpoints": pinpoints, "image": {"image_grid_pinpoints": pinpoints}}
    write_llava(
        folder / "model",
        vision={"image_size": SIDE, "patch_size": 6},
        text={"initializer_range": 0.06},
        **(anyres if kind == "1.6" else {}),
    )
    if not (folder / "data").is_dir():
        _write_digits(folder / "data")
    config = {
        "model_name_or_path": str(folder / "model"),
        "from_scratch": True,
        "dataset": {"train": str(folder / "data" / "train.json")},
        "mixtoken": True,
        "max_length": 512,
        "per_device_train_batch_size": 2,
        "max_steps": STEPS,
        "learning_rate": 2e-3,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "save_steps": STEPS,
        "logging_steps": 1,
        "output_dir": str(folder / "run"),
        **keys,
    }
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return path


def _write_digits(folder: Path) -> None:
    """The first rows of each task of the digits -> folder/train.json."""
    folder.mkdir()
    rows = []
    for task, prompt in PROMPTS.items():
        for number, picture in enumerate(islice(make_pictures("train", task), ROWS_OF_A_TASK)):
            name = f"{task}-{number}.png"
            Image.fromarray(picture.pixels_HW).save(folder / name)
            question = {"role": "user", "content": f"<image>{prompt}"}
            answer = {"role": "assistant", "content": picture.answer}
            rows.append({"images": [name], "messages": [question, answer]})
    (folder / "train.json").write_text(json.dumps(rows))


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]
