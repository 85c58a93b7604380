"""What must not change the result: packing, padding, recomputing, company; stochastic depth; bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import paddle
import pytest

from mix_core.errors import DataError
from mix_core.models import load_model
from mix_core.models.common.recompute import Again
from tests.builders.internvl2_checkpoints import config_of

CONTEXT, TRAINED = 440, 16


def make(folder: Path, **vision: object):
    config = config_of(vision=vision, text={"max_position_embeddings": TRAINED})
    (folder / "config.json").write_text(json.dumps(config))
    model = load_model(folder, random_init=True)[2]
    with paddle.no_grad():
        for parameter in model.parameters():
            parameter.scale_(3.0 if parameter.ndim > 1 else 1.0)
    return model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    return make(tmp_path_factory.mktemp("model"))


def sample(seed: int, tiles: list[int], text: int) -> dict[str, np.ndarray]:
    """One row of pictures, then text."""
    rng = np.random.default_rng(seed)
    ids = [1]
    for count in tiles:
        ids += [438, *[CONTEXT] * (4 * count), 439]
    ids += rng.integers(0, 400, text).tolist()
    batch = {"input_ids": np.array([ids]), "labels": np.array([ids])}
    if tiles:
        batch["pixel_values"] = rng.standard_normal((sum(tiles), 3, 28, 28)).astype("float32")
        batch["img_context_token_id"] = np.array([CONTEXT])
    return batch


SAMPLES = [sample(0, [3], 9), sample(1, [], 9), sample(2, [1, 2], 3)]
"""The first and the last are longer than the trained length: their rotary base is their own."""


def pack(samples: list[dict]) -> dict[str, np.ndarray]:
    packed = {key: np.concatenate([s[key] for s in samples], axis=1) for key in ("input_ids", "labels")}
    packed["pixel_values"] = np.concatenate([s["pixel_values"] for s in samples if "pixel_values" in s])
    lengths = [s["input_ids"].shape[1] for s in samples]
    cu_seqlens = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return packed | {"cu_seqlens": cu_seqlens, "img_context_token_id": np.array([CONTEXT])}


def pad(samples: list[dict], side: str) -> dict[str, np.ndarray]:
    S, B = max(s["input_ids"].shape[1] for s in samples), len(samples)
    batch = {"input_ids": np.full((B, S), 5), "labels": np.full((B, S), -100)}
    batch["attention_mask"] = np.zeros((B, S), np.int64)
    for b, s in enumerate(samples):
        length = s["input_ids"].shape[1]
        place = slice(S - length, None) if side == "left" else slice(length)
        batch["attention_mask"][b, place] = 1
        for key in ("input_ids", "labels"):
            batch[key][b, place] = s[key][0]
    batch["pixel_values"] = np.concatenate([s["pixel_values"] for s in samples if "pixel_values" in s])
    return batch | {"img_context_token_id": np.array([CONTEXT])}


def gradients(model, batches: list[dict]) -> dict[str, np.ndarray]:
    model.clear_gradients(set_to_zero=False)
    for batch in batches:
        model.loss(batch)[0].backward()
    return {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}


def assert_close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], limit: float = 2e-5) -> None:
    assert set(found) == set(expected)
    whole = np.sqrt(sum((g**2).sum() for g in expected.values()))
    for name, gradient in expected.items():
        size = max(np.linalg.norm(gradient), 1e-4 * whole)
        assert np.linalg.norm(found[name] - gradient) < limit * size, name


def test_packing_and_padding_change_neither_loss_nor_gradients(model) -> None:
    alone = [model.loss(s) for s in SAMPLES]
    expected = gradients(model, SAMPLES)
    for batch in (pack(SAMPLES), pad(SAMPLES, "left"), pad(SAMPLES, "right")):
        loss, count = model.loss(batch)
        assert count == sum(n for _, n in alone)
        assert float(loss) == pytest.approx(sum(float(part) for part, _ in alone), rel=1e-6)
        assert_close(gradients(model, [batch]), expected)


@pytest.mark.parametrize(
    "again",
    [True, Again("attention"), Again(first=1), Again("attention", kept=frozenset({0}))],
    ids=["full", "attention", "the first block", "attention but of the first"],
)
def test_recomputing_gives_the_same_gradients_bit_for_bit(model, again) -> None:
    model.train()
    expected = gradients(model, SAMPLES)
    model.recompute = again
    try:
        assert model.vision_model.encoder.recompute and model.recompute
        found = gradients(model, SAMPLES)
    finally:
        model.recompute = False
        model.eval()
    for name, gradient in expected.items():
        np.testing.assert_array_equal(found[name], gradient)


@pytest.fixture(scope="module")
def dropping(tmp_path_factory: pytest.TempPathFactory):
    return make(tmp_path_factory.mktemp("dropping"), drop_path_rate=0.6, num_hidden_layers=3)


def test_stochastic_depth_depends_on_the_sample_alone(dropping) -> None:
    """Whatever the batch, in whatever order, packed or padded, computed again or not."""
    dropping.train()

    def run(samples: list[dict], ids: list[int], step: int = 3) -> dict[str, np.ndarray]:
        dropping.random.start(seed=7, step=step, samples=np.array(ids))
        return gradients(dropping, samples)

    try:
        single: list[dict[str, np.ndarray]] = [run([s], [i]) for i, s in zip((4, 5, 6), SAMPLES)]
        summed = {n: sum(g[n] for g in single if n in g) for n in set().union(*single)}
        assert_close(run([pack(SAMPLES)], [4, 5, 6]), summed)
        assert_close(run([pad(SAMPLES[::-1], "left")], [6, 5, 4]), summed)
        dropping.recompute = True
        assert_close(run([pack(SAMPLES)], [4, 5, 6]), summed)
        other = run([pack(SAMPLES)], [4, 5, 6], step=4)
        assert any(np.linalg.norm(other[n] - g) > 0.01 * np.linalg.norm(g) for n, g in summed.items())
    finally:
        dropping.recompute = False
        dropping.eval()
    assert dropping.model is dropping.language_model.decoder


def test_stochastic_depth_drops_at_its_rates_and_not_when_answering(dropping) -> None:
    from mix_core.models.common.random import SampleRandom
    from mix_core.models.internvl2.vision import stochastic_depth

    random = SampleRandom()
    random.start(seed=1, step=0, samples=np.arange(40))
    first, second, third = stochastic_depth(random, [0.0, 0.25, 0.5], np.repeat(np.arange(40), 100))
    assert first is None and second.shape == (2, 4000)
    for factors, rate in ((second, 0.25), (third, 0.5)):
        assert set(np.unique(factors)) == {0, np.float32(1 / (1 - rate))}
        assert abs((factors == 0).mean() - rate) < 0.02
        assert abs(np.corrcoef(factors)[0, 1]) < 0.05, "both branches draw for themselves"
    batch = {key: value for key, value in SAMPLES[0].items() if key != "labels"}
    np.testing.assert_array_equal(dropping(**batch).numpy(), dropping(**batch).numpy())


def test_bad_batches(model) -> None:
    good = {key: value for key, value in SAMPLES[0].items() if key != "labels"}
    with pytest.raises(DataError, match=r"12 <IMG_CONTEXT> tokens .* 2 tiles of 4"):
        model(**good | {"pixel_values": good["pixel_values"][:2]})
    with pytest.raises(DataError, match=r"shape \(3, 3, 14, 14\), expected \(tiles, 3, 28, 28\)"):
        model(**good | {"pixel_values": good["pixel_values"][:, :, :14, :14]})
    with pytest.raises(DataError, match="without img_context_token_id"):
        model(**good | {"img_context_token_id": None})
