"""Text to image on real data: digits that a reader of real ones names, and a class that an adapter lifts."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mix_core.data.digit_captions import digit_pictures
from tests.environment import processor_seconds

pytestmark = pytest.mark.slow
LEAST = 0.85
LIMIT_S, CORES = 600, 2
CLASS = 8
"""A digit that the model draws badly after a third of the steps, so that there is something to lift."""


def run(folder: Path, name: str, **keys: Any) -> dict[str, float]:
    """A run's results, and the seconds of processor time that it took."""
    given = {"output_dir": folder / name, "device": "cpu", "progress_bar": "false", **keys}
    words = [word for key, value in given.items() for word in (f"--{key}", str(value))]
    command = [sys.executable, "-m", "mix_core.train", *words]
    used = processor_seconds(*command, environment=os.environ, log=folder / f"{name}.log", timeout=2400)
    return json.loads((folder / name / "results.json").read_text()) | {"processor_seconds": used}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("digits")


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, float]:
    return run(folder, "recipe", recipe="digits-t2i")


def test_generated_digits_are_named_as_asked_for(folder: Path, results: dict[str, float]) -> None:
    assert results["reader_exact"] > 0.97
    assert results["digits_exact"] >= LEAST
    assert results["processor_seconds"] < CORES * LIMIT_S, "no more than two cores have in ten minutes"
    gallery = json.loads((folder / "recipe/gallery.json").read_text())
    assert len(gallery) >= 60 and all((folder / "recipe" / one["image"]).is_file() for one in gallery)


def test_dreambooth_with_an_adapter_lifts_a_class(folder: Path, results: dict[str, float]) -> None:
    """From the checkpoint after a third of the steps, with a few pictures of one digit."""
    pictures, digits = digit_pictures("train", 1000, seed=2)
    (folder / "eights").mkdir()
    for i, pixels in enumerate(pictures[digits == CLASS][:60]):
        Image.fromarray(pixels).save(folder / f"eights/{i}.png")
    scored = {
        "model_name_or_path": folder / "recipe/checkpoint-600",
        "scored_digits": 200,
        "validation_steps": 10,
        "validation_guidance": 3.0,
    }
    before = run(folder, "before", do_train="false", **scored)
    learnt = {"learning_rate": 3e-3, "adam_beta2": 0.99, "train_batch_size": 20, "max_train_steps": 150}
    dreambooth = {"instance_data_dir": folder / "eights", "instance_prompt": "a handwritten eight"}
    adapter = {"lora": "true", "lora_rank": 16, "lora_alpha": 32, "proportion_empty_prompts": 0.1}
    after = run(folder, "lifted", **adapter, **dreambooth, **learnt, **scored)
    assert after["eight_exact"] >= before["eight_exact"] + 0.1, (before, after)
