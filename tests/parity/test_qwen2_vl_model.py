"""Qwen2-VL against transformers in float32 with random weights: logits, gradients, greedy tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers", reason="live parity needs transformers")
torch = pytest.importorskip("torch", reason="live parity needs torch")

from tests.builders.qwen2_vl import flat_config  # noqa: E402
from tests.parity.agreement import (  # noqa: E402
    assert_agrees_with_transformers,
    assert_same_answer,
    distance,
    generated,
    idle_parameters,
)
from tests.parity.peer import Peers  # noqa: E402

SIZES: dict[str, dict[str, Any]] = {
    "tied, heads 4 over 2": {},
    "untied, heads 7 over 1": {
        "tied": False,
        "text": {"hidden_size": 112, "num_attention_heads": 7, "num_key_value_heads": 1},
    },
    "vision heads of 20, half the feed-forward": {"vision": {"embed_dim": 40, "mlp_ratio": 2}},
}
MIXED: list[list[Any]] = [
    [4, ("image", (1, 6, 4)), 5],
    [23],
    [2, ("image", (1, 4, 4)), 1, ("image", (1, 10, 6)), 9],
    [6],
]
ROWS: dict[str, list[list[Any]]] = {
    "two images of different sizes": [[2, ("image", (1, 4, 8)), 3, ("image", (1, 12, 4)), 5]],
    "video": [[4, ("video", (3, 4, 6)), 7]],
    "video and image": [[2, ("video", (2, 4, 4)), 3, ("image", (1, 6, 4)), 4]],
    "text only": [[17]],
    "left-padded mixed batch": MIXED,
}
FIRST = next(iter(SIZES))
CASES = [(FIRST, rows) for rows in ROWS] + [
    (size, "left-padded mixed batch") for size in SIZES if size != FIRST
]


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory):
    made: dict[str, Peers] = {}

    def get(size: str) -> Peers:
        if size not in made:
            made[size] = Peers(tmp_path_factory.mktemp("peers"), config_of=flat_config, **SIZES[size])
        return made[size]

    return get


@pytest.mark.parametrize("size,rows", CASES)
def test_logits_and_gradients(peers, size: str, rows: str) -> None:
    pair: Peers = peers(size)
    assert_agrees_with_transformers(pair, pair.batch(ROWS[rows]))


def test_every_parameter_learns(peers) -> None:
    pair: Peers = peers(FIRST)
    assert idle_parameters(pair, pair.batch(MIXED)) == set()


def test_a_packed_row_and_recomputed_blocks_give_the_same(peers) -> None:
    pair: Peers = peers(FIRST)
    alone = [pair.batch([row], seed=i) for i, row in enumerate(MIXED)]
    packed = {key: np.concatenate([b[key] for b in alone], axis=1) for key in ("input_ids", "attention_mask")}
    for key in ("pixel_values", "image_grid_thw"):
        packed[key] = np.concatenate([b[key] for b in alone if key in b])
    lengths = [b["input_ids"].shape[1] for b in alone]
    packed["cu_seqlens"] = np.cumsum([0, *lengths]).astype(np.int32)
    expected = np.concatenate([pair.ours(**b).numpy()[0] for b in alone])
    assert distance(pair.ours(**packed).numpy()[0], expected) < 1e-6

    gradients = []
    pair.ours.train()
    for pair.ours.recompute in (False, True):
        pair.ours.clear_gradients(set_to_zero=False)
        loss, count = pair.ours.loss(packed | {"labels": packed["input_ids"]})
        (loss / count).backward()
        gradients.append(pair.our_gradients())
    pair.ours.recompute = False
    pair.ours.eval()
    for name, gradient in gradients[0].items():
        assert distance(gradients[1][name], gradient) < 1e-6, name


@pytest.mark.parametrize("rows", ["video and image", "left-padded mixed batch"])
def test_the_same_greedy_tokens(peers, rows: str) -> None:
    pair: Peers = peers("untied, heads 7 over 1")
    batch = pair.batch(ROWS[rows], seed=1)
    assert_same_answer(pair, ROWS[rows], generated(pair, batch, pair.for_generate(batch)))


def test_transformers_counts_pictures_alike(peers) -> None:
    """Its own positions, not handed to it: pictures are counted alike, videos are not (README.md)."""
    pair: Peers = peers(FIRST)
    batch = pair.batch(MIXED)
    given = pair.for_theirs(batch)
    expected = given.pop("position_ids").numpy()
    kinds = torch.tensor((batch["input_ids"] == pair.config["image_token_id"]).astype(np.int32))
    theirs, _ = pair.theirs.model.get_rope_index(
        given["input_ids"], kinds, given["image_grid_thw"], attention_mask=given["attention_mask"]
    )
    np.testing.assert_array_equal(theirs.numpy(), expected)


def test_a_step_of_a_video_is_one_position_whatever_its_seconds(peers) -> None:
    pair: Peers = peers(FIRST)
    batch = pair.batch([[1, ("video", (3, 4, 4)), 2]])
    time, row, column = pair.ours.place(batch)[:, 0]
    # text and <|vision_start|> at 0 and 1, then 3 steps of 2 x 2 cells
    assert time.tolist() == [0, 1, *[2] * 4, *[3] * 4, *[4] * 4, 5, 6, 7]
    assert row.tolist() == [0, 1, *[2, 2, 3, 3] * 3, 5, 6, 7]
    assert column.tolist() == [0, 1, *[2, 3, 2, 3] * 3, 5, 6, 7]
    seconds = {"second_per_grid_ts": np.array([7.5], np.float32)}
    np.testing.assert_array_equal(pair.ours.place(batch | seconds)[:, 0], [time, row, column])
