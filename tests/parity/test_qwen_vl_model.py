"""Qwen-VL against a reference from torch's and transformers' parts: logits and gradients in float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers", reason="live parity needs transformers")
torch = pytest.importorskip("torch", reason="live parity needs torch")

from mix_core.errors import DataError  # noqa: E402
from tests.parity.agreement import (  # noqa: E402
    LOGITS,
    assert_agrees,
    assert_padding_does_not_matter,
    distance,
    idle_parameters,
)
from tests.parity.qwen_vl_peer import TEXT, Peers, long_logits, tower  # noqa: E402

CANNOT_LEARN = {"visual.attn_pool.attn.k_proj.bias"}
"""No rotary turns this key, so its bias adds the same to all scores of a query. (So does a third of each bias
of the tower's blocks, whose other parts learn.)"""

SIZES: dict[str, dict[str, Any]] = {
    "tables of other sizes": {},
    "grids that stay": {"visual": {"image_size": 224, "n_queries": 256, "layers": 1}, "num_hidden_layers": 1},
    "wide heads": {
        "hidden_size": 256,
        "num_attention_heads": 2,
        "visual": {"width": 208, "heads": 2, "image_size": 84, "n_queries": 16},
    },
}
ROWS = {
    "one picture": [[3, 6]],
    "two pictures": [[2, 3, 5]],
    "text only": [[17]],
    "left-padded mixed batch": [[4, 5], [23], [2, 1, 9], [6]],
}


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory):
    made: dict[str, Peers] = {}

    def get(size: str) -> Peers:
        if size not in made:
            made[size] = Peers(tmp_path_factory.mktemp("peers"), **SIZES[size])
        return made[size]

    return get


def cases() -> list[tuple[str, str]]:
    first, *others = SIZES
    return [(first, rows) for rows in ROWS] + [(size, "two pictures") for size in others]


@pytest.mark.parametrize("size,rows", cases())
def test_logits_and_gradients(peers, size: str, rows: str) -> None:
    pair: Peers = peers(size)
    pair.zero_grad()
    batch = pair.batch(ROWS[rows])
    assert_agrees(pair, batch, TEXT, pair.theirs(batch))


def test_every_parameter_learns_but_those_that_cannot(peers) -> None:
    pair: Peers = peers("tables of other sizes")
    assert idle_parameters(pair, pair.batch(ROWS["left-padded mixed batch"])) == CANNOT_LEARN
    assert "transformer.visual.attn_pool.pos_embed" not in pair.our_gradients(), "it is fixed"


def test_the_tower_alone(peers) -> None:
    pair: Peers = peers("wide heads")
    batch = pair.batch([[1, 1, 1]])
    given = pair.ours._patches(batch["pixel_values"])
    import paddle

    found = pair.ours.visual(paddle.to_tensor(given), 2).numpy()
    with torch.no_grad():
        expected = tower(pair.weights, pair.config["visual"], torch.tensor(batch["pixel_values"])).numpy()
    assert found.shape == (2 * 16, 256) and distance(found, expected) < LOGITS


def test_padding_on_the_right_gives_the_same_logits(peers) -> None:
    assert_padding_does_not_matter(peers("tables of other sizes"), ROWS["left-padded mixed batch"])


def test_packed_rows_do_not_see_each_other(peers) -> None:
    pair: Peers = peers("tables of other sizes")
    padded = pair.batch(ROWS["left-padded mixed batch"], side="right")
    present = padded["attention_mask"] == 1
    packed = {
        "input_ids": padded["input_ids"][present][None],
        "pixel_values": padded["pixel_values"],
        "cu_seqlens": np.concatenate([[0], np.cumsum(present.sum(axis=1))]).astype(np.int32),
    }
    assert distance(pair.ours(**packed).numpy()[0], pair.ours(**padded).numpy()[present]) < 1e-6
    losses = []
    for batch, keep in ((padded, present), (packed, np.ones_like(packed["input_ids"], bool))):
        losses.append(pair.ours.loss(batch | {"labels": np.where(keep, batch["input_ids"], -100)}))
    assert losses[0][1] == losses[1][1] and float(losses[0][0]) == pytest.approx(
        float(losses[1][0]), rel=1e-6
    )


def test_pictures_without_places_and_places_without_an_end(peers) -> None:
    pair: Peers = peers("tables of other sizes")
    batch = pair.batch([[3, 6]])
    with pytest.raises(DataError, match="has 1 places for pictures and pixel_values holds 0"):
        pair.ours(batch["input_ids"])
    with pytest.raises(DataError, match=r"pixel_values has shape \(1, 3, 56, 28\); expected"):
        pair.ours(batch["input_ids"], pixel_values=batch["pixel_values"][..., :28])
    cut = batch["input_ids"][:, :8]
    with pytest.raises(DataError, match=r"row 1 has an <img> \(id 280\) without </img> \(id 281\) 10 places"):
        pair.ours(cut, pixel_values=batch["pixel_values"])


LONG = {"seq_length": 24}


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Peers:
    return Peers(tmp_path_factory.mktemp("long"), **LONG)


@pytest.mark.parametrize("length", [20, 24, 25, 40, 48, 49, 100])
def test_texts_beyond_the_trained_length(long: Peers, length: int) -> None:
    batch = long.batch([[length]])
    with torch.no_grad():
        expected = long_logits(long, batch["input_ids"][0].tolist(), length).numpy()
        within = long.theirs(batch).numpy()[0]
    assert distance(long.ours(**batch).numpy()[0], expected) < LOGITS
    assert (distance(within, expected) < LOGITS) is (length <= 24), "beyond it the rules matter"


@pytest.mark.parametrize("switched_off", ["use_dynamic_ntk", "use_logn_attn"])
def test_each_rule_can_be_switched_off(tmp_path, switched_off: str) -> None:
    pair = Peers(tmp_path, **LONG, **{switched_off: False})
    batch = pair.batch([[60]])
    with torch.no_grad():
        expected = long_logits(pair, batch["input_ids"][0].tolist(), 60).numpy()
    assert distance(pair.ours(**batch).numpy()[0], expected) < LOGITS


def test_a_row_s_rules_are_its_own(long: Peers) -> None:
    batch = long.batch([[60], [20], [2, 30], [26]])
    logits = long.ours(**batch).numpy()
    for b, row in ((0, 60), (1, 20), (3, 26)):
        present = batch["attention_mask"][b] == 1
        with torch.no_grad():
            expected = long_logits(long, batch["input_ids"][b][present].tolist(), row).numpy()
        assert distance(logits[b][present], expected) < LOGITS


def test_training_uses_neither(long: Peers) -> None:
    batch = long.batch([[40]])
    long.ours.train()
    try:
        found = long.ours(**batch).numpy()
    finally:
        long.ours.eval()
    with torch.no_grad():
        assert distance(found, long.theirs(batch).numpy()) < LOGITS


def test_what_stands_between_the_tags_does_not_matter(peers) -> None:
    """The published tokenizer writes the address's bytes there, ours the pad token."""
    pair: Peers = peers("tables of other sizes")
    batch = pair.batch([[3, 6]])
    other = np.where(batch["input_ids"] == TEXT + 2, 47, batch["input_ids"])
    assert (other == 47).sum() >= 9
    np.testing.assert_array_equal(
        pair.ours(**(batch | {"input_ids": other})).numpy(), pair.ours(**batch).numpy()
    )
