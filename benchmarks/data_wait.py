"""How long a training step waits for its samples, without and with data workers.

    python benchmarks/data_wait.py [--steps 10] [--workers 0 1 2] [--photo 1280x960] [--size mini]

Trains the small Qwen2.5-VL of workload.py by the real command, on batches of PHOTOS rows with a JPEG photo
and a text each. Each photo is read, decoded, shrunk to 16 x 16 patches and cut anew for each row. Prints a
JSON line for each number of workers: medians over the steps after the first WARM_UP, and `data_wait`, the
share of their time in which they waited.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import workload
from PIL import Image

import mix_core.recipes

PHOTOS = 4
"""Rows in a batch."""
FILES = 16
WARM_UP = 4
"""Steps whose samples were begun before there was a step to wait in."""
AHEAD = 128
"""Rows that workers may have in hand beyond the last step."""
TEXT = "what is it? " * 15
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


def write_model(folder: Path, size: str) -> None:
    """config.json and a processor; the run draws the weights."""
    folder.mkdir()
    recipe = Path(mix_core.recipes.__file__).parent / "digits" / "model"
    for name in TOKENIZER:
        shutil.copy(recipe / name, folder / name)
    ids = {
        k: v for k, v in json.loads((recipe / "config.json").read_text()).items() if k.endswith("token_id")
    }
    config = workload.config_dict(workload.SIZES[size]) | ids
    (folder / "config.json").write_text(json.dumps(config))
    pixels = (workload.GRID[1] * workload.PATCH) * (workload.GRID[2] * workload.PATCH)
    settings = json.loads((recipe / "preprocessor_config.json").read_text())
    settings |= {"patch_size": workload.PATCH, "min_pixels": 784, "max_pixels": pixels}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


def write_rows(folder: Path, photo: tuple[int, int], rows: int) -> Path:
    """Photos of coarse noise, which JPEG finds as hard as a real one, and rows that take them in turn."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(FILES):
        coarse = Image.fromarray(rng.integers(0, 256, (photo[1] // 8, photo[0] // 8, 3), np.uint8))
        coarse.resize(photo, Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=90)
    turns = [{"from": "human", "value": "<image>\nDescribe it."}, {"from": "gpt", "value": TEXT}]
    written = [{"image": f"{row % FILES}.jpg", "conversations": turns} for row in range(rows)]
    (folder / "train.json").write_text(json.dumps(written))
    return folder / "train.json"


def measure(folder: Path, workers: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train and read what the run measured."""
    run = folder / f"run-{workers}"
    config = {
        "model_name_or_path": str(folder / "model"),
        "from_scratch": True,
        "dataset": str(folder / "data" / "train.json"),
        "per_device_train_batch_size": PHOTOS,
        "max_steps": WARM_UP + arguments.steps,
        "dataloader_num_workers": workers,
        "kernels": arguments.kernels,
        "device": arguments.device,
        "save_strategy": "no",
        "benchmark": True,
        "output_dir": str(run),
    }
    (folder / "config.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "mix_core.train", str(folder / "config.json")]
    done = subprocess.run(command, stdout=sys.stderr)
    if done.returncode != 0:
        raise SystemExit(done.returncode)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][WARM_UP:]
    seconds = {key: [line[key] for line in lines] for key in ("step_ms", "data_ms")}
    return {
        "size": arguments.size,
        "photo": arguments.photo,
        "workers": workers,
        "steps": len(lines),
        **{key: statistics.median(values) for key, values in seconds.items()},
        "data_wait": sum(seconds["data_ms"]) / sum(seconds["step_ms"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=sorted(workload.SIZES), default="mini")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--photo", default="1280x960", help="width x height in pixels")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--kernels", choices=("auto", "reference"), default="auto")
    arguments = parser.parse_args()
    width, height = (int(side) for side in arguments.photo.split("x"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder / "model", arguments.size)
        rows = (WARM_UP + arguments.steps) * PHOTOS + AHEAD
        write_rows(folder / "data", (width, height), rows)
        for workers in arguments.workers:
            workload.print_line(measure(folder, workers, arguments))


if __name__ == "__main__":
    main()
