"""Peaks of real training steps on each of several (simulated) devices, for each layout of FOLDER/cases.json.

A case as plan_memory.py has them, of full rows with a picture each, and keys, those of a configuration that
are about layout and recompute; passes are those of each stream of samples. checkpoint: a folder to load in
place of drawn weights.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from plan_memory import ACTIVE, batch_of, main, measured  # activates the device

from mix_core.config import load_config
from mix_core.device.ranks import Job, job_of
from mix_core.models.parallel.across import Across
from mix_core.models.parallel.tensor import divide_model
from mix_core.models.registry import load_model
from mix_core.training import assembly
from mix_core.training.layout import layout_of
from mix_core.training.loop import Stepper
from mix_core.training.parallel import Ranks
from mix_core.training.pipeline.engine import Pipeline
from mix_core.training.precision import Precision
from mix_core.training.schedule import Schedule
from mix_core.training.stream import StepBatches


def stepper_of(case: dict[str, Any], job: Job) -> Stepper:
    """What trains a case's model in its layout, as a run has it."""
    config = load_config(arguments=case["keys"])
    ranks = Ranks(job, layout_of(config, job.ranks))

    def divide(family: Any, model: Any) -> None:
        across = Across(ranks.groups.place.tensor, ranks.layout.tensor, ranks.groups.along("tensor"))
        divide_model(model, family.tensor_plan or {}, across, sequence=config.sequence_parallel)

    divides = divide if ranks.layout.tensor > 1 else None
    if "checkpoint" in case:
        family, model_config, model = load_model(Path(case["checkpoint"]), divide=divides)
    else:
        with TemporaryDirectory() as name:
            (Path(name) / "config.json").write_text(json.dumps(case["model"]))
            family, model_config, model = load_model(Path(name), random_init=True, divide=divides)
    _, learning = assembly.choose_what_learns(model, family, config, None, show=False)
    model.recompute = assembly.again_of(config)
    model.train()
    precision = Precision.of("float32", "O1", ACTIVE)
    stage = assembly.stage_of(config, model, family, model_config, ranks)
    optimizer = assembly.new_optimizer(config, model, precision, learning, ranks, stage)
    pipeline = None if stage is None else Pipeline(stage, precision.computing)
    schedule = Schedule(kind="constant", peak=1e-3, total_steps=10)
    optimizer.release()
    return Stepper(
        model,
        optimizer,
        schedule,
        max_grad_norm=1.0,
        seed=0,
        precision=precision,
        ranks=ranks,
        pipeline=pipeline,
    )


def peak_of(case: dict[str, Any], job: Job) -> dict[str, Any]:
    """The most memory that the third step needs, and what stands before it; bytes."""
    gc.collect()
    before = ACTIVE.runtime.memory_stats()["allocated"]
    stepper = stepper_of(case, job)
    batches = StepBatches([batch_of(case)] * case["passes"], 1, 0.0, False)
    return measured(stepper, batches, before) | {"stage": stepper.ranks.groups.place.pipeline}


if __name__ == "__main__":
    JOB = job_of(os.environ)
    main(Path(sys.argv[1]), JOB, lambda case: peak_of(case, JOB))
