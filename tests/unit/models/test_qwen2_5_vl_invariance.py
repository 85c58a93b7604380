"""What must not change the result: packing, recomputing, batching, the order of padding; and bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import paddle
import pytest

from mix_core.errors import BadInputError, DataError
from mix_core.models import load_model
from mix_core.models.common.recompute import Again
from tests.builders.checkpoints import flat_config

IDS = {"<|endoftext|>": 40, "<|im_end|>": 41, "<|vision_start|>": 42, "<|vision_end|>": 43}
IDS |= {"<|vision_pad|>": 44, "<|image_pad|>": 45, "<|video_pad|>": 46}


def make(folder: Path, **text: object):
    config = flat_config(IDS, 64, text=text, vision={"depth": 3, "fullatt_block_indexes": [1]})
    (folder / "config.json").write_text(json.dumps(config))
    model = load_model(folder, random_init=True)[2]
    with paddle.no_grad():
        for parameter in model.parameters():
            parameter.scale_(3.0 if parameter.ndim > 1 else 1.0)
    return model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    return make(tmp_path_factory.mktemp("model"))


def sample(seed: int, grids: list[tuple[int, int, int]], text: int) -> dict[str, np.ndarray]:
    """One row of pictures, then text."""
    rng = np.random.default_rng(seed)
    ids = [1]
    for t, h, w in grids:
        ids += [42, *[45] * (t * h * w // 4), 43]
    ids += rng.integers(0, 40, text).tolist()
    batch = {"input_ids": np.array([ids]), "labels": np.array([ids])}
    if grids:
        batch["image_grid_thw"] = np.array(grids)
        batch["pixel_values"] = rng.standard_normal((sum(t * h * w for t, h, w in grids), 1176)).astype(
            "float32"
        )
    return batch


SAMPLES = [sample(0, [(1, 4, 6)], 5), sample(1, [], 9), sample(2, [(1, 6, 6), (1, 2, 4)], 3)]


def pack(samples: list[dict]) -> dict[str, np.ndarray]:
    packed = {key: np.concatenate([s[key] for s in samples], axis=1) for key in ("input_ids", "labels")}
    for key in ("image_grid_thw", "pixel_values"):
        packed[key] = np.concatenate([s[key] for s in samples if key in s])
    lengths = [s["input_ids"].shape[1] for s in samples]
    return packed | {"cu_seqlens": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)}


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


def test_packing_changes_neither_loss_nor_gradients(model) -> None:
    packed = pack(SAMPLES)
    loss, count = model.loss(packed)
    alone = [model.loss(s) for s in SAMPLES]
    assert count == sum(n for _, n in alone)
    assert float(loss) == pytest.approx(sum(float(part) for part, _ in alone), rel=1e-6)
    assert_close(gradients(model, [packed]), gradients(model, SAMPLES))


def test_padding_changes_neither_loss_nor_gradients(model) -> None:
    longest = max(s["input_ids"].shape[1] for s in SAMPLES)
    for side in ("left", "right"):
        batch = {"input_ids": np.full((3, longest), 40), "labels": np.full((3, longest), -100)}
        batch["attention_mask"] = np.zeros((3, longest), np.int64)
        for b, s in enumerate(SAMPLES):
            length = s["input_ids"].shape[1]
            place = slice(longest - length, None) if side == "left" else slice(length)
            batch["attention_mask"][b, place] = 1
            for key in ("input_ids", "labels"):
                batch[key][b, place] = s[key][0]
        for key in ("image_grid_thw", "pixel_values"):
            batch[key] = np.concatenate([s[key] for s in SAMPLES if key in s])
        assert_close(gradients(model, [batch]), gradients(model, SAMPLES))


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
        assert model.visual.recompute
        found = gradients(model, SAMPLES)
    finally:
        model.recompute = False
        model.eval()
    for name, gradient in expected.items():
        np.testing.assert_array_equal(found[name], gradient)


def test_recomputing_reaches_layers_above_a_frozen_input(model) -> None:
    frozen = [p for n, p in model.named_parameters() if n.startswith("visual.") or "embed_tokens" in n]
    model.train()
    for parameter in frozen:
        parameter.stop_gradient = True
    try:
        expected = gradients(model, SAMPLES[1:2])
        model.recompute = True
        assert_close(gradients(model, SAMPLES[1:2]), expected, 1e-7)
        assert "model.layers.0.self_attn.q_proj.weight" in expected
    finally:
        model.recompute = False
        model.eval()
        for parameter in frozen:
            parameter.stop_gradient = False


@pytest.mark.parametrize(
    "frozen", ["visual.", "model.", "weight", "bias", "k_proj", "mlp", "norm", "embed_tokens"]
)
def test_frozen_parameters_get_no_gradient_and_the_others_theirs(model, frozen: str) -> None:
    expected = gradients(model, SAMPLES)
    model.clear_gradients(set_to_zero=False)
    held = [parameter for name, parameter in model.named_parameters() if frozen in name]
    for parameter in held:
        parameter.stop_gradient = True
    try:
        found = gradients(model, SAMPLES)
    finally:
        for parameter in held:
            parameter.stop_gradient = False
    assert_close(found, {name: g for name, g in expected.items() if frozen not in name}, 1e-6)


def test_no_label_is_no_loss_but_still_has_gradients(model) -> None:
    batch = SAMPLES[0] | {"labels": np.full_like(SAMPLES[0]["labels"], -100)}
    loss, count = model.loss(batch)
    loss.backward()
    assert (float(loss), count) == (0.0, 0)


def test_dropout_belongs_to_the_sample_not_to_its_place_in_the_batch(tmp_path: Path) -> None:
    model = make(tmp_path, attention_dropout=0.5)
    model.train()

    def run(batch: dict, ids: list[int], step: int = 7) -> float:
        model.random.start(seed=1, step=step, samples=np.array(ids))
        return float(model.loss(batch)[0])

    alone = [run(s, [10 + i]) for i, s in enumerate(SAMPLES)]
    assert run(pack(SAMPLES), [10, 11, 12]) == pytest.approx(sum(alone), rel=1e-6)
    assert run(SAMPLES[0], [10], step=8) != alone[0]
    assert run(SAMPLES[0], [11]) != alone[0]
    model.eval()
    assert run(SAMPLES[0], [10]) == run(SAMPLES[0], [99])


def test_dropout_without_a_start_says_what_to_call(tmp_path: Path) -> None:
    model = make(tmp_path, attention_dropout=0.5)
    model.train()
    with pytest.raises(RuntimeError, match=r"model\.random\.start"):
        model.loss(SAMPLES[1])


@pytest.mark.parametrize(
    "change,message",
    [
        (
            {"image_grid_thw": np.array([[1, 4, 4]])},
            "token 6 of the text is a pad token for images, but no image grid is left",
        ),
        ({"image_grid_thw": None}, "token 2 of the text is a pad token for images"),
        ({"pixel_values": None}, "must come with"),
        (
            {"pixel_values": np.zeros((24, 588), np.float32)},
            r"has shape \(24, 588\); .* ask for \(24, 1176\)",
        ),
        ({"video_grid_thw": np.array([[1, 4, 4]])}, "video"),
    ],
)
def test_pictures_that_do_not_match_the_text(model, change, message: str) -> None:
    given = {key: value for key, value in SAMPLES[0].items() if key != "labels"} | change
    with pytest.raises(DataError, match=message):
        model(**given)


def test_a_cache_that_is_too_small_or_not_filled(model) -> None:
    cache = model.new_cache(1, 4)
    with pytest.raises(BadInputError, match="do not fit a cache of 1 rows of 4"):
        model.prefill(cache, {"input_ids": np.array([[1, 2, 3, 4, 5]])})
    with pytest.raises(BadInputError, match="prefill it first"):
        model.decode(cache, [1])
    model.prefill(cache, {"input_ids": np.array([[1, 2, 3]])})
    model.decode(cache, [1])
    with pytest.raises(BadInputError, match="holds 4 of 4"):
        model.decode(cache, [1])


def test_a_row_without_tokens_cannot_be_prefilled(model) -> None:
    mask = np.array([[1, 1], [0, 0]])
    with pytest.raises(DataError, match="has no token"):
        model.prefill(model.new_cache(2, 4), {"input_ids": np.ones((2, 2), int), "attention_mask": mask})


def test_tensors_serve_as_well_as_arrays(model) -> None:
    arrays = {key: value for key, value in SAMPLES[0].items() if key != "labels"}
    tensors = {key: paddle.to_tensor(value) for key, value in arrays.items()}
    np.testing.assert_array_equal(model(**tensors).numpy(), model(**arrays).numpy())
