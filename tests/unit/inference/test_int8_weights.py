"""`mix_core.load(weights="int8")`: what becomes int8, and how near the answers stay."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

import mix_core
from mix_core.errors import BadInputError, WeightsError
from mix_core.models.common.int8 import Int8Embedding, Int8Linear, with_int8_weights
from mix_core.models.common.layers import Embedding, Linear
from mix_core.models.registry import load_model
from tests.builders.checkpoints import write_checkpoint
from tests.unit.inference.conftest import write_random_model


@pytest.fixture(scope="module")
def rounded(model_folder):
    return mix_core.load(model_folder, device="cpu", weights="int8")


def batch(engine) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(0).integers(1, 90, (1, 24))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def test_the_decoder_is_int8_and_the_tower_is_not(rounded, engine):
    assert (rounded.weights, rounded.dtype, engine.weights) == ("int8", "float32", "float32")
    decoder = [layer for layer in rounded.model.model.sublayers() if isinstance(layer, (Linear, Int8Linear))]
    assert len(decoder) == 7 * len(rounded.model.model.layers)
    assert {type(layer) for layer in decoder} == {Int8Linear}
    assert {layer.weight.dtype for layer in decoder} == {paddle.int8}
    assert isinstance(rounded.model.lm_head, Int8Embedding)
    assert isinstance(rounded.model.model.embed_tokens, Embedding), "an untied table is read a row a token"
    tower = [layer for layer in rounded.model.visual.sublayers() if isinstance(layer, (Linear, Int8Linear))]
    assert tower and {type(layer) for layer in tower} == {Linear}


def test_logits_are_near_those_of_float32(rounded, engine):
    ours, exact = (one.forward(**batch(one)) for one in (rounded, engine))
    error = np.linalg.norm(ours - exact) / np.linalg.norm(exact)
    assert 1e-4 < error < 0.1


def test_decoding_says_what_the_whole_row_says(rounded):
    """Few rows and many rows of the same weights: prefill and steps against one forward pass."""
    inputs = batch(rounded)
    whole = rounded.forward(**inputs)[0]
    model, ids = rounded.model, inputs["input_ids"]
    cache = model.new_cache(1, ids.shape[1])
    first = {"input_ids": ids[:, :12], "attention_mask": inputs["attention_mask"][:, :12]}
    rows = [model.prefill(cache, first).numpy()[0]]
    rows += [model.decode(cache, ids[:, i]).numpy()[0] for i in range(12, 23)]
    np.testing.assert_allclose(np.stack(rows), whole[11:23], rtol=1e-4, atol=1e-4)


def test_it_answers_about_pictures_and_in_batches(rounded, pictures):
    asked = ["what is in this picture?", "hi"]
    together = rounded.generate(asked, [pictures[:1], None], max_new_tokens=8)
    alone = [rounded.generate(q, i, max_new_tokens=8) for q, i in zip(asked, [pictures[:1], None])]
    assert together == alone


def test_a_tied_head_is_rounded_once(tmp_path):
    write_checkpoint(tmp_path, tie_word_embeddings=True)
    _, _, model = load_model(tmp_path, random_init=True)
    table = model.model.embed_tokens.weight.numpy()
    with_int8_weights(model)
    assert isinstance(model.model.embed_tokens, Int8Embedding) and model.head is model.model.embed_tokens
    found = model.model.embed_tokens(paddle.to_tensor(np.array([3, 0, 3]))).numpy()
    assert np.abs(found - table[[3, 0, 3]]).max() <= np.abs(table).max() / 254 * 1.01


def test_no_float_matrix_of_the_decoder_is_kept(rounded, engine):
    def bytes_of(model) -> int:
        held = [*model.parameters(), *model.buffers()]
        return sum(int(tensor.size) * tensor.element_size() for tensor in held)

    for name in ("layers", "norm"):
        part = getattr(rounded.model.model, name), getattr(engine.model.model, name)
        small, large = (bytes_of(one) for one in part)
        assert small < 0.35 * large if name == "layers" else small == large


def test_weights_that_are_not_finite_are_named(tmp_path):
    folder = write_random_model(tmp_path)
    family, _, model = load_model(folder)
    down = model.model.layers[1].mlp.down_proj.weight
    values = down.numpy()
    values[3, 2] = np.inf
    down.set_value(values)
    family.save_weights(model, folder)
    with pytest.raises(WeightsError) as error:
        mix_core.load(folder, device="cpu", weights="int8")
    assert str(error.value) == (
        "model.layers.1.mlp.down_proj.weight cannot be rounded to int8: "
        "row 2 holds numbers that are not finite"
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"weights": "int4"}, "weights is 'int4', expected int8, or nothing for float32"),
        ({"weights": "int8", "dtype": "bfloat16"}, "int8 weights need dtype float32"),
    ],
)
def test_bad_values_are_refused(model_folder, given, words):
    with pytest.raises(BadInputError, match=words):
        mix_core.load(model_folder, device="cpu", **given)
