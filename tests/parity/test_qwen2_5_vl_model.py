"""Qwen2.5-VL against transformers in float32 with random weights: logits and gradients."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("transformers", reason="live parity needs transformers")
torch = pytest.importorskip("torch", reason="live parity needs torch")

from tests.parity.agreement import (  # noqa: E402
    LOGITS,
    assert_agrees_with_transformers,
    assert_padding_does_not_matter,
    distance,
    idle_parameters,
)
from tests.parity.peer import Peers  # noqa: E402

CANNOT_LEARN: set[str] = set()
"""Parameters that cannot affect the output. A key's bias could not, were it not for rotary: it adds the same
to all scores of a query. Every key of Qwen2.5-VL is turned, in the tower too, so none is listed."""

SIZES: dict[str, dict[str, Any]] = {
    "tied, heads 4 over 2": {},
    "untied, heads 4 over 4": {"tied": False, "text": {"num_key_value_heads": 4}},
    "heads 7 over 1": {"text": {"hidden_size": 112, "num_attention_heads": 7, "num_key_value_heads": 1}},
    "vision heads of 20": {"vision": {"hidden_size": 40, "num_heads": 2, "window_size": 112}},
}
ROWS: dict[str, list[list[Any]]] = {
    "one image": [[3, ("image", (1, 8, 8)), 6]],
    "two images of different sizes": [[2, ("image", (1, 4, 8)), 3, ("image", (1, 12, 4)), 5]],
    "ragged windows": [[3, ("image", (1, 6, 10)), 4]],
    "video with fps": [[4, ("video", (3, 4, 6), 0.5), 7]],
    "video and image": [[2, ("video", (2, 4, 4), 1.5), 3, ("image", (1, 6, 4)), 4]],
    "text only": [[17]],
    "left-padded mixed batch": [
        [4, ("image", (1, 6, 4)), 5],
        [23],
        [2, ("image", (1, 4, 4)), 1, ("image", (1, 10, 6)), 9],
        [6],
    ],
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
    first = next(iter(SIZES))
    return [(first, rows) for rows in ROWS] + [
        (size, "left-padded mixed batch") for size in SIZES if size != first
    ]


@pytest.mark.parametrize("size,rows", cases())
def test_logits_and_gradients(peers, size: str, rows: str) -> None:
    pair: Peers = peers(size)
    assert_agrees_with_transformers(pair, pair.batch(ROWS[rows]))


def test_every_parameter_learns_but_those_listed(peers) -> None:
    pair: Peers = peers("tied, heads 4 over 2")
    assert idle_parameters(pair, pair.batch(ROWS["left-padded mixed batch"])) == CANNOT_LEARN


def test_padding_on_the_right_gives_the_same_logits(peers) -> None:
    assert_padding_does_not_matter(peers("tied, heads 4 over 2"), ROWS["left-padded mixed batch"])


def test_a_long_context_stays_close(peers) -> None:
    pair: Peers = peers("tied, heads 4 over 2")
    batch = pair.batch([[300, ("image", (1, 20, 12)), 400]])
    with torch.no_grad():
        expected = pair.theirs(**pair.for_theirs(batch)).logits.numpy()
    assert distance(pair.ours(**batch).numpy(), expected) < LOGITS
