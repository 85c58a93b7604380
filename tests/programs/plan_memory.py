"""Peaks of real training steps on one (simulated) device, for each case of a JSON file, as JSON.

A case: model (a config.json), rows (tokens of each), pictures (their grids in patches), packed, dtype, level,
recompute (false, true, "attention", or a number of blocks from the start), freeze (beginnings of names), rank
(of adapters, 0: none), passes, bunch (numbers whose gradients wait for an update going back, 0: all). Ranks
of a launcher sum up.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mix_core.device as device

ACTIVE = device.activate()

import numpy as np  # noqa: E402 (after the settings)

from mix_core.device.ranks import Job, job_of  # noqa: E402
from mix_core.models.common.lora import LoRASettings, add_adapter, init_adapter, linear_maps  # noqa: E402
from mix_core.models.common.recompute import Again  # noqa: E402
from mix_core.models.registry import get_family  # noqa: E402
from mix_core.training.loop import Stepper  # noqa: E402
from mix_core.training.optimizer import AdamW  # noqa: E402
from mix_core.training.parallel import Ranks  # noqa: E402
from mix_core.training.precision import Precision  # noqa: E402
from mix_core.training.schedule import Schedule  # noqa: E402
from mix_core.training.stream import StepBatches  # noqa: E402


def batch_of(case: dict[str, Any]) -> dict[str, np.ndarray]:
    """Rows that begin with their pictures' tokens; every token after those has a label."""
    config = case["model"]
    rng = np.random.default_rng(case.get("seed", 0))
    lengths, grids = case["rows"], [tuple(grid) for grid in case["pictures"]]
    rows, labels = [], []
    for place, length in enumerate(lengths):
        cells = [t * h * w // 4 for t, h, w in grids[place : place + 1]]
        start = [config["vision_start_token_id"], *[config["image_token_id"]] * cells[0]] if cells else []
        words = rng.integers(0, 256, length - len(start)).tolist()
        rows.append(np.array(start + words, np.int64))
        labels.append(np.where(np.arange(length) < max(len(start), 1), -100, rows[-1]))
    batch: dict[str, np.ndarray] = {}
    if case["packed"]:
        batch["input_ids"], batch["labels"] = np.concatenate(rows)[None], np.concatenate(labels)[None]
        batch["cu_seqlens"] = np.cumsum([0, *lengths]).astype(np.int32)
    else:
        S = max(lengths)
        batch["input_ids"] = np.stack([np.pad(row, (0, S - len(row))) for row in rows])
        batch["labels"] = np.stack([np.pad(row, (0, S - len(row)), constant_values=-100) for row in labels])
        batch["attention_mask"] = (np.arange(S) < np.array(lengths)[:, None]).astype(np.int64)
    if grids:
        patches = sum(t * h * w for t, h, w in grids)
        batch["pixel_values"] = rng.standard_normal((patches, 3 * 2 * 14 * 14), dtype=np.float32)
        batch["image_grid_thw"] = np.array(grids, np.int64)
    return batch


def peak_of(case: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    """The most memory that the third step needs, and what stands before it; bytes."""
    gc.collect()
    before = ACTIVE.runtime.memory_stats()["allocated"]
    family = get_family(case["model"]["model_type"])
    model = family.build(family.config_from_dict(case["model"]))
    family.init_weights(model, 0)
    for name, parameter in model.named_parameters():
        if any(name.startswith(part) for part in case["freeze"]):
            parameter.stop_gradient = True
    if case["rank"]:
        maps = [one for one in linear_maps(model) if one.in_decoder is not None]
        for parameter in model.parameters():
            parameter.stop_gradient = True
        add_adapter(model, maps, "one", LoRASettings(rank=case["rank"], alpha=8.0))
        init_adapter(maps, "one", 0)
    again = case["recompute"]
    if not isinstance(again, bool):
        again = Again("attention") if again == "attention" else Again(first=again)
    model.recompute = again
    model.train()
    precision = Precision.of(case["dtype"], case["level"], ACTIVE)
    optimizer = AdamW(model, masters=precision.narrow(model), in_backward=case["bunch"])
    schedule = Schedule(kind="constant", peak=1e-3, total_steps=10)
    clip = 0.0 if case["bunch"] else 1.0
    stepper = Stepper(
        model, optimizer, schedule, max_grad_norm=clip, seed=0, precision=precision, ranks=ranks
    )
    batches = StepBatches([batch_of(case)] * case["passes"], 1, 0.0, False)
    parameters = sum(int(parameter.size) for parameter in model.parameters())
    return measured(stepper, batches, before) | {"parameters": parameters}


def measured(stepper: Stepper, batches: StepBatches, before: int) -> dict[str, Any]:
    """Three steps: their losses, the peak of the third, and what stands before it, above `before` bytes."""
    found: dict[str, Any] = {"losses": []}
    for step in (1, 2, 3):
        gc.collect()
        ACTIVE.runtime.synchronize()
        ACTIVE.runtime.reset_peak_memory()
        found["resident"] = ACTIVE.runtime.memory_stats()["allocated"] - before
        found["losses"].append(stepper.take(step, batches, 0.0, 0.0).loss)
    found["peak"] = ACTIVE.runtime.memory_stats()["peak"] - before
    return found


def main(folder: Path, job: Job, peak_of: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Measure each case of a folder, and write FOLDER/RANK.json."""
    found = [peak_of(case) for case in json.loads((folder / "cases.json").read_text())]
    kernels = {f"{row['op']} {row['dtype']}": row["kernel"] for row in ACTIVE.to_json()["kernels"]}
    (folder / f"{job.rank}.json").write_text(json.dumps({"cases": found, "kernels": kernels}))


if __name__ == "__main__":
    RANKS = Ranks(job_of(os.environ))
    main(Path(sys.argv[1]), RANKS.job, lambda case: peak_of(case, RANKS))
