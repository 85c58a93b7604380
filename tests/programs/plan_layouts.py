"""Peaks of real training steps on each of several (simulated) devices, for each layout of FOLDER/cases.json.

A case: keys (of the configuration, those of the layout among them), rows (of a pass), length (tokens of a
row, of which a picture of one tile is the first part), passes (of each stream of samples). Writes
FOLDER/RANK.json.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mix_core.device as device

ACTIVE = device.activate()

import numpy as np  # noqa: E402 (after the settings)

from mix_core.config import load_config  # noqa: E402
from mix_core.device.ranks import Job, job_of  # noqa: E402
from mix_core.models.parallel.across import Across  # noqa: E402
from mix_core.models.parallel.tensor import divide_model  # noqa: E402
from mix_core.models.registry import load_model  # noqa: E402
from mix_core.training import assembly  # noqa: E402
from mix_core.training.layout import layout_of  # noqa: E402
from mix_core.training.loop import Stepper  # noqa: E402
from mix_core.training.parallel import Ranks  # noqa: E402
from mix_core.training.pipeline.engine import Pipeline  # noqa: E402
from mix_core.training.precision import Precision  # noqa: E402
from mix_core.training.schedule import Schedule  # noqa: E402
from mix_core.training.stream import StepBatches  # noqa: E402

GRID = (1, 8, 12)
"""Of a picture, in patches."""


def batch_of(model: dict[str, Any], rows: int, length: int) -> dict[str, np.ndarray]:
    """Rows that begin with a picture's tokens; every token after those has a label."""
    rng = np.random.default_rng(0)
    start = [model["vision_start_token_id"], *[model["image_token_id"]] * (GRID[1] * GRID[2] // 4)]
    ids = np.array([start + rng.integers(0, 256, length - len(start)).tolist() for _ in range(rows)])
    return {
        "input_ids": ids,
        "labels": np.where(np.arange(length) < len(start), -100, ids),
        "attention_mask": np.ones_like(ids),
        "pixel_values": rng.standard_normal((rows * GRID[1] * GRID[2], 3 * 2 * 14 * 14), dtype=np.float32),
        "image_grid_thw": np.array([GRID] * rows, np.int64),
    }


def peak_of(case: dict[str, Any], job: Job) -> dict[str, Any]:
    """The most memory that the third step needs, and what stands before it; bytes."""
    gc.collect()
    memory = ACTIVE.runtime.memory_stats
    before = memory()["allocated"]
    config = load_config(arguments=case["keys"])
    ranks = Ranks(job, layout_of(config, job.ranks))

    def divide(family: Any, model: Any) -> None:
        across = Across(ranks.groups.place.tensor, ranks.layout.tensor, ranks.groups.along("tensor"))
        divide_model(model, family.tensor_plan or {}, across, sequence=config.sequence_parallel)

    with TemporaryDirectory() as name:
        (Path(name) / "config.json").write_text(json.dumps(case["model"]))
        divides = divide if ranks.layout.tensor > 1 else None
        family, model_config, model = load_model(Path(name), random_init=True, divide=divides)
    model.recompute = assembly.again_of(config)
    model.train()
    precision = Precision.of("float32", "O1", ACTIVE)
    stage = assembly.stage_of(config, model, family, model_config, ranks)
    learning = [name for name, one in model.named_parameters() if not one.stop_gradient]
    optimizer = assembly.new_optimizer(config, model, precision, learning, ranks, stage)
    pipeline = None if stage is None else Pipeline(stage, precision.computing)
    schedule = Schedule(kind="constant", peak=1e-3, total_steps=10)
    stepper = Stepper(
        model,
        optimizer,
        schedule,
        max_grad_norm=1.0,
        seed=0,
        precision=precision,
        ranks=ranks,
        pipeline=pipeline,
    )
    batches = StepBatches(
        [batch_of(case["model"], case["rows"], case["length"])] * case["passes"], 1, 0.0, False
    )
    optimizer.release()
    found: dict[str, Any] = {"losses": []}
    for step in (1, 2, 3):
        gc.collect()
        ACTIVE.runtime.synchronize()
        ACTIVE.runtime.reset_peak_memory()
        found["resident"] = memory()["allocated"] - before
        found["losses"].append(stepper.take(step, batches, 0.0, 0.0).loss)
    found["peak"] = memory()["peak"] - before
    found["stage"] = ranks.groups.place.pipeline
    return found


def main(folder: Path) -> None:
    job = job_of(os.environ)
    found = [peak_of(case, job) for case in json.loads((folder / "cases.json").read_text())]
    kernels = {f"{row['op']} {row['dtype']}": row["kernel"] for row in ACTIVE.to_json()["kernels"]}
    (folder / f"{job.rank}.json").write_text(json.dumps({"cases": found, "kernels": kernels}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
