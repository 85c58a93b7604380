"""A packed pass learns what its samples learn one by one: loss and gradients, through loader and model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mix_core.models.registry import load_model
from tests.programs.packed_gradients import FOLDER, make_processor, make_rows

PROGRAM = Path(__file__).parents[2] / "programs" / "packed_gradients.py"


@pytest.mark.parametrize(
    "kernels, limit",
    [("reference", 1e-6), ("auto", 1e-5)],
    ids=["references", "kernels, whose gradients hold 1e-5 themselves"],
)
def test_packed_and_unpacked_agree(kernels, limit):
    command = [sys.executable, "-W", "ignore", str(PROGRAM), kernels]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["passes"] == [2, 12]  # 417 tokens in passes of 256
    assert seen["tokens"][0] == seen["tokens"][1] and seen["labels"][0] == seen["labels"][1]
    assert seen["loss"] < 1e-6 and seen["gradient"] < limit


def test_segments_do_not_see_each_other():
    """Another neighbour changes nothing in a sample's loss."""
    _, _, model = load_model(FOLDER, random_init=True, seed=0)
    model.eval()
    processor = make_processor()
    rows = make_rows()[:3]
    samples = [processor.encode(row["messages"], max_length=None, describe=row["source"]) for row in rows]
    silent = {**samples[1], "labels": np.full_like(samples[1]["labels"], -100)}
    other = {**samples[2], "labels": np.full_like(samples[2]["labels"], -100)}
    beside = [model.loss(processor.collate([one, samples[0]], packing=True))[0] for one in (silent, other)]
    alone = model.loss(processor.collate([samples[0]]))[0]
    assert float(beside[0]) == pytest.approx(float(alone), rel=1e-6)
    assert float(beside[1]) == pytest.approx(float(alone), rel=1e-6)
