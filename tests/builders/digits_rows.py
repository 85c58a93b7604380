"""A few rows of the bundled digits, as `mix-core data digits` writes them: all three tasks, quickly made."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

from PIL import Image

from mix_core.data.digits import PROMPTS, make_pictures


def write_digits_rows(folder: Path, each: int = 8) -> Path:
    """`each` training rows of every task, the tasks in turn, and their pictures -> folder/train.json."""
    (folder / "images").mkdir(parents=True)
    rows = []
    tasks = {task: islice(make_pictures("train", task), each) for task in PROMPTS}
    for i, pictures in enumerate(zip(*tasks.values())):
        for task, picture in zip(tasks, pictures):
            name = f"images/{task}-{i}.png"
            Image.fromarray(picture.pixels_HW).save(folder / name)
            question = {"role": "user", "content": f"<image>{PROMPTS[task]}"}
            answer = {"role": "assistant", "content": picture.answer}
            rows.append({"images": [name], "task": task, "messages": [question, answer]})
    (folder / "train.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder / "train.json"
