"""NEFTune: the paper's size, and the same noise for a sample in whatever batch or packed row it stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mix_core.models.common.embedding_noise import draw
from tests.builders.checkpoints import write_checkpoint

ALPHA = 5.0
TEXTS = ("one", "two and some more", "3, " * 5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def processor(folder) -> Any:
    from mix_core.models.registry import family_of_folder

    return family_of_folder(folder).load_processor(folder)


@pytest.fixture
def model(folder) -> Any:
    from mix_core.models.registry import load_model

    _, _, model = load_model(folder, random_init=True, seed=1)
    model.add_noise(ALPHA)
    model.train()
    return model


@pytest.fixture(scope="module")
def samples(processor, tmp_path_factory) -> list[dict[str, Any]]:
    from PIL import Image

    path = tmp_path_factory.mktemp("picture") / "a.png"
    Image.new("RGB", (56, 56), (200, 30, 60)).save(path)
    asked = [{"type": "image", "image": str(path)}, {"type": "text", "text": "?"}]
    rows = [[{"role": "user", "content": asked}, {"role": "assistant", "content": text}] for text in TEXTS]
    return [processor.encode(one, max_length=200) | {"sample_id": 10 + i} for i, one in enumerate(rows)]


def noisy(model: Any, batch: dict[str, Any], step: int = 1, seed: int = 0) -> np.ndarray:
    """Embeddings (T, D) of a batch while training."""
    model.random.start(seed=seed, step=step, samples=batch["sample_ids"])
    noise = model.model.embed_tokens.noise
    noise.place(batch["attention_mask"].sum(1), batch["input_ids"].shape[1], batch.get("cu_seqlens"))
    return model.embed(batch).numpy()


def clean(model: Any, batch: dict[str, Any]) -> np.ndarray:
    model.eval()
    embedded = model.embed(batch).numpy()
    model.train()
    return embedded


def test_the_size_is_the_papers():
    noise = draw(np.array([3, 4], np.uint32), 500, 64, ALPHA)
    bound = ALPHA / np.sqrt(500 * 64)
    assert noise.shape == (500, 64) and noise.dtype == np.float32
    assert np.abs(noise).max() <= bound and np.abs(noise).max() > 0.999 * bound
    assert abs(noise.mean()) < 0.02 * bound
    assert noise.std() == pytest.approx(bound / np.sqrt(3), rel=0.02)
    assert (draw(np.array([3, 5], np.uint32), 500, 64, ALPHA) != noise).mean() > 0.99
    assert draw(np.array([0, 0], np.uint32), 0, 8, 1.0).shape == (0, 8)


def test_noise_belongs_to_the_sample_and_not_to_its_batch(model, processor, samples):
    alone = []
    for sample in samples:
        batch = processor.collate([sample])
        alone.append(noisy(model, batch) - clean(model, batch))
    together = processor.collate(samples)
    in_rows = (noisy(model, together) - clean(model, together)).reshape(3, -1, alone[0].shape[1])
    packed = processor.collate(samples, packing=True)
    in_one_row = noisy(model, packed) - clean(model, packed)
    ends = packed["cu_seqlens"]
    for i, expected in enumerate(alone):
        assert np.abs(expected).max() > 0
        np.testing.assert_allclose(in_rows[i, : len(expected)], expected, atol=1e-7)
        np.testing.assert_array_equal(in_rows[i, len(expected) :], 0)
        np.testing.assert_allclose(in_one_row[ends[i] : ends[i + 1]], expected, atol=1e-7)


def test_pictures_have_none_and_other_steps_have_another(model, processor, samples):
    batch = processor.collate(samples[:1])
    first = noisy(model, batch) - clean(model, batch)
    pads = batch["input_ids"].reshape(-1) == model.config.image_token_id
    assert pads.any()
    np.testing.assert_array_equal(first[pads], 0)
    assert (np.abs(first[~pads]).max(axis=1) > 0).all()
    np.testing.assert_array_equal(noisy(model, batch) - clean(model, batch), first)
    assert (noisy(model, batch, step=2) - clean(model, batch) != first)[~pads].mean() > 0.9
    assert (noisy(model, batch, seed=1) - clean(model, batch) != first)[~pads].mean() > 0.9


def test_a_packed_row_and_padded_rows_have_one_loss(model, processor, samples):
    losses = []
    for packing in (False, True):
        batch = processor.collate(samples, packing=packing)
        model.random.start(seed=0, step=1, samples=batch["sample_ids"])
        losses.append(float(model.loss(batch)[0]))
    model.eval()
    without = float(model.loss(processor.collate(samples))[0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert abs(losses[0] - without) > 1e-3, "evaluation has no noise"
