"""LLaVA against transformers in float32 with random weights: logits and gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers", reason="live parity needs transformers")
torch = pytest.importorskip("torch", reason="live parity needs torch")

from tests.parity.agreement import (  # noqa: E402
    LOGITS,
    assert_agrees_with_transformers,
    assert_padding_does_not_matter,
    distance,
    idle_parameters,
    targets,
)
from tests.parity.llava_peer import IMAGE, Peers  # noqa: E402

CANNOT_LEARN = "self_attn.k_proj.bias"
"""Of the tower, which turns no key: a key's bias adds the same to all scores of a query, which softmax takes
out again. Its gradient is rounding."""

MODELS: dict[str, dict[str, Any]] = {
    "1.5": {"anyres": False},
    "1.6": {"anyres": True},
    "1.6 on mistral": {
        "anyres": True,
        "text": {
            "model_type": "mistral",
            "num_key_value_heads": 1,
            "head_dim": 20,
            "rope_theta": 1e6,
            "sliding_window": None,
        },
    },
    "1.5 tied, all of the tower": {
        "anyres": False,
        "tie_word_embeddings": True,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "vision": {"hidden_act": "gelu", "hidden_size": 40},
    },
    "1.5 after one layer": {"anyres": False, "vision_feature_layer": 1, "multimodal_projector_bias": False},
}
ROWS: dict[str, list[list[Any]]] = {
    "one image": [[3, (30, 40), 6]],
    "two images": [[2, (100, 20), 3, (25, 90), 5]],
    "text only": [[17]],
    "left-padded mixed batch": [[4, (56, 56), 5], [23], [2, (31, 8), 1, (3, 200), 9], [6]],
    "unusual aspects": [[2, (1, 1), 2, (2, 300), 2, (300, 2), 2, (1000, 900), 3]],
}


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory):
    made: dict[str, Peers] = {}

    def get(name: str) -> Peers:
        if name not in made:
            made[name] = Peers(tmp_path_factory.mktemp("peers"), **MODELS[name])
        return made[name]

    return get


def of_the_tower(pair: Peers) -> set[str]:
    """The parameters that CANNOT_LEARN means."""
    names = (name for name, _ in pair.ours.named_parameters())
    return {name for name in names if name.startswith("vision_tower") and name.endswith(CANNOT_LEARN)}


def cases() -> list[tuple[str, str]]:
    return [(model, rows) for model in ("1.5", "1.6") for rows in ROWS] + [
        (model, "left-padded mixed batch") for model in MODELS if model not in ("1.5", "1.6")
    ]


@pytest.mark.parametrize("model,rows", cases())
def test_logits_and_gradients(peers, model: str, rows: str) -> None:
    pair: Peers = peers(model)
    batch = pair.batch(ROWS[rows])
    assert_agrees_with_transformers(pair, batch, IMAGE, lambda name: name in of_the_tower(pair))


@pytest.mark.parametrize("model", ["1.5", "1.6"])
def test_every_parameter_learns_but_those_named(peers, model: str) -> None:
    pair: Peers = peers(model)
    batch = pair.batch(ROWS["left-padded mixed batch"])
    assert idle_parameters(pair, batch, share=1e-6) == of_the_tower(pair)


@pytest.mark.parametrize("model", ["1.5", "1.6"])
def test_padding_on_the_right_gives_the_same_logits(peers, model: str) -> None:
    assert_padding_does_not_matter(peers(model), ROWS["left-padded mixed batch"])


@pytest.mark.parametrize("model", ["1.5", "1.6"])
def test_a_packed_row_is_its_samples_one_by_one(peers, model: str) -> None:
    pair: Peers = peers(model)
    batch = pair.batch(ROWS["left-padded mixed batch"], side="right")
    labels, lengths = targets(batch, IMAGE), batch["attention_mask"].sum(axis=1)
    keep = batch["attention_mask"].astype(bool)
    packed = {
        **{key: batch[key] for key in ("pixel_values", "image_sizes") if key in batch},
        "input_ids": batch["input_ids"][keep][None],
        "labels": labels[keep][None],
        "cu_seqlens": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
    }
    found = []
    for given in (batch | {"labels": labels}, packed):
        pair.ours.clear_gradients(set_to_zero=False)
        loss, count = pair.ours.loss(given)
        loss.backward()
        found.append((float(loss), count, pair.our_gradients()))
    (loss, count, padded), (packed_loss, packed_count, gradients) = found
    assert packed_count == count and packed_loss == pytest.approx(loss, rel=1e-6)
    flat, expected = (
        np.concatenate([one[name].reshape(-1) for name in sorted(one)]) for one in (gradients, padded)
    )
    # what kernels hold going back; with the references tests/programs/packed_gradients.py holds 1e-6
    assert distance(flat, expected) < 1e-5


def test_tiles_padded_to_the_most_are_the_same(peers) -> None:
    pair: Peers = peers("1.6")
    batch = pair.batch([[2, (20, 20), 3, (60, 60), 4]])
    few, many = 3, 5
    tiles = np.zeros((2, many, *batch["pixel_values"].shape[1:]), np.float32)
    tiles[0, :few], tiles[1] = batch["pixel_values"][:few], batch["pixel_values"][few:]
    tiles[0, few:] = 7.0
    np.testing.assert_array_equal(
        pair.ours(**batch).numpy(), pair.ours(**(batch | {"pixel_values": tiles})).numpy()
    )


def test_rows_within_a_sliding_window_are_exact_and_longer_ones_refused(tmp_path) -> None:
    from mix_core.errors import DataError

    pair = Peers(tmp_path, anyres=False, text={"model_type": "mistral", "sliding_window": 30})
    for tokens in (30, 31):
        batch = pair.batch([[tokens - 16, (30, 40)]])
        if tokens == 31:
            with pytest.raises(DataError, match="31 tokens, and the model's attention slides over 30"):
                pair.ours(**batch)
            continue
        with torch.no_grad():
            expected = pair.theirs(**pair.for_theirs(batch)).logits.numpy()
        assert distance(pair.ours(**batch).numpy(), expected) < LOGITS


@pytest.mark.parametrize(
    "change,says",
    [
        ({"input_ids": np.zeros((1, 25), np.int64)}, "the text has 0 pad tokens with id 300"),
        ({"pixel_values": np.zeros((4, 3, 28, 28), np.float32)}, "has shape (4, 3, 28, 28), expected (3, 3,"),
        ({"pixel_values": None}, "(0 tiles) give 0 rows"),
        ({"image_sizes": np.array([[60, 60]])}, "expected (5, 3, 28, 28) for the 1 pictures"),
    ],
)
def test_pictures_that_do_not_fit_are_named(peers, change: dict[str, Any], says: str) -> None:
    from mix_core.errors import DataError

    pair: Peers = peers("1.6")
    batch = pair.batch([[2, (20, 20), 3]])
    with pytest.raises(DataError) as caught:
        pair.ours(**(batch | {"attention_mask": None} | change))
    assert says in str(caught.value)
