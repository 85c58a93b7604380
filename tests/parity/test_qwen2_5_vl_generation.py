"""Greedy generation: the same 32 tokens as transformers' generate, from our cache and from theirs."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers", reason="live parity needs transformers")
pytest.importorskip("torch", reason="live parity needs torch")

from tests.parity.agreement import (
    assert_same_answer,
    assert_the_cache_changes_nothing,
    generated,
)
from tests.parity.peer import Peers

ROWS = {
    "one image": [[3, ("image", (1, 8, 8)), 6]],
    "video with fps": [[4, ("video", (3, 4, 6), 2.0), 7]],
    "text only": [[9]],
    "mixed lengths": [
        [4, ("image", (1, 6, 4)), 5],
        [19],
        [2, ("image", (1, 4, 4)), 1, ("image", (1, 10, 6)), 3],
    ],
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Peers:
    return Peers(tmp_path_factory.mktemp("peers"), tied=False)


@pytest.mark.parametrize("rows", ROWS)
def test_the_same_tokens(pair: Peers, rows: str) -> None:
    batch = pair.batch(ROWS[rows], seed=1)
    assert_same_answer(pair, ROWS[rows], generated(pair, batch, pair.for_generate(batch)))


def test_cached_logits_are_those_of_the_whole_sequence(pair: Peers) -> None:
    assert_the_cache_changes_nothing(pair, pair.batch(ROWS["mixed lengths"], seed=2))
