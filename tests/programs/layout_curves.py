"""Some training steps in each layout of FOLDER/cases.json, and the weights that they end with.

A case as plan_layouts.py has them, with `steps`; a step has `samples` rows of one pass each, which ranks that
see other samples take in turn. Every third row is text. family: whose tiny batch stands for a row. Each rank
writes FOLDER/RANK.json with losses and norms, and FOLDER/RANK-CASE.npz with what it has of the weights: NAME
at OFFSETS...
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from plan_layouts import stepper_of
from plan_memory import batch_of

from mix_core.device.ranks import Job, job_of
from mix_core.models.registry import get_family
from mix_core.training.loop import Stepper
from mix_core.training.stream import StepBatches

WORDS = 256
"""Tokens below are plain text."""


def curve_of(case: dict[str, Any], job: Job, weights_file: Path) -> dict[str, list[float]]:
    stepper = stepper_of(case, job)
    layout = stepper.ranks.layout
    own = range(layout.stream(job.rank), case["samples"], layout.streams)
    found: dict[str, list[float]] = {"loss": [], "grad_norm": []}
    for step in range(1, case["steps"] + 1):
        passes = [sample(case, step * case["samples"] + row) for row in own]
        seen = stepper.take(step, StepBatches(passes, step, 0.0, False), 0.0, 0.0)
        found["loss"].append(seen.loss)
        found["grad_norm"].append(seen.grad_norm)
    np.savez(weights_file, **weights_of(stepper, job))
    return found


def sample(case: dict[str, Any], number: int) -> dict[str, np.ndarray]:
    """One row, or a family's tiny batch with other words; what is dropped depends on its number alone."""
    if "family" in case:
        tiny = get_family(case["family"]).tiny()
        ids = tiny.batch["input_ids"]
        changed = {"input_ids": np.where(ids < WORDS, (ids + 7 * number) % WORDS, ids)}
        changed["labels"] = np.where(tiny.batch["labels"] == -100, -100, changed["input_ids"])
        return tiny.batch | changed
    row = case | {"seed": number} | ({"pictures": []} if number % 3 == 0 else {})
    return batch_of(row) | {"sample_ids": np.array([number])}


def weights_of(stepper: Stepper, job: Job) -> dict[str, np.ndarray]:
    """This rank's parts of what learns, by name and where they begin; the first rank's of what all have."""
    found = dict(stepper.optimizer.named_parameters()) if job.rank == 0 else {}
    parts = {
        f"{part.name}@{','.join(map(str, part.box.offset))}": part.tensor
        for part in stepper.optimizer.weights()
    }
    return {name: one.numpy() for name, one in (found | parts).items()}


def main(folder: Path) -> None:
    job = job_of(os.environ)
    cases = json.loads((folder / "cases.json").read_text())
    found = [curve_of(case, job, folder / f"{job.rank}-{at}.npz") for at, case in enumerate(cases)]
    (folder / f"{job.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
