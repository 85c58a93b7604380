"""Greedy generation of LLaVA: the same 32 tokens as transformers' generate."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers", reason="live parity needs transformers")
pytest.importorskip("torch", reason="live parity needs torch")

from tests.parity.agreement import assert_same_answer, assert_the_cache_changes_nothing, generated
from tests.parity.llava_peer import Peers

ROWS = [[4, (40, 30), 5], [19], [2, (5, 90), 1, (64, 64), 3]]


@pytest.fixture(scope="module", params=["1.5", "1.6"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Peers:
    return Peers(tmp_path_factory.mktemp("peers"), anyres=request.param == "1.6")


def test_the_same_tokens(pair: Peers) -> None:
    batch = pair.batch(ROWS, seed=1)
    assert_same_answer(pair, ROWS, generated(pair, batch, pair.for_theirs(batch)))


def test_cached_logits_are_those_of_the_whole_sequence(pair: Peers) -> None:
    assert_the_cache_changes_nothing(pair, pair.batch(ROWS, seed=2))
