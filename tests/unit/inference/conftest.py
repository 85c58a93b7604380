"""A small model with lively random weights, loaded once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mix_core
from tests.builders.checkpoints import write_checkpoint


def write_random_model(folder: Path) -> Path:
    """A complete folder whose answers vary: weights far larger than those that training starts with."""
    from mix_core.models.common.weights import fill_random
    from mix_core.models.registry import load_model

    write_checkpoint(folder, tie_word_embeddings=False)
    family, _, model = load_model(folder, random_init=True)
    fill_random(model, 0, 0.3)
    family.save_weights(model, folder)
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def engine(model_folder: Path):
    return mix_core.load(model_folder, device="cpu")


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    """Of different sizes, with ragged windows."""
    draw = np.random.default_rng(7)
    sizes = [(56, 84), (140, 60), (28, 28), (90, 33)]
    return [Image.fromarray(draw.integers(0, 256, (h, w, 3), np.uint8)) for h, w in sizes]
