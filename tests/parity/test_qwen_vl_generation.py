"""Greedy generation of Qwen-VL: the same 32 tokens as the reference, beyond the trained length too."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("transformers", reason="live parity needs transformers")
torch = pytest.importorskip("torch", reason="live parity needs torch")

from tests.parity.agreement import assert_the_cache_changes_nothing, greedy, with_answer  # noqa: E402
from tests.parity.qwen_vl_peer import TEXT, Peers, long_logits  # noqa: E402


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Peers:
    return Peers(tmp_path_factory.mktemp("peers"))


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Peers:
    return Peers(tmp_path_factory.mktemp("long"), seq_length=24)


@pytest.mark.parametrize("rows", [[[4, 6]], [[4, 5], [19], [2, 1, 3]]], ids=["one picture", "mixed lengths"])
def test_the_same_tokens(pair: Peers, rows: list[list[int]]) -> None:
    """The reference reads our answer; each token must be the one that it would give after those before."""
    batch = pair.batch(rows, seed=1)
    found = greedy(pair, batch)
    with torch.no_grad():
        logits = pair.theirs(with_answer(batch, found)).numpy()
    np.testing.assert_array_equal(logits[:, batch["input_ids"].shape[1] - 1 : -1].argmax(-1), found)
    assert len(np.unique(found)) > 4, "a constant answer would prove nothing"
    np.testing.assert_array_equal(greedy(pair, pair.batch(rows, seed=1, side="right")), found)


def test_the_same_tokens_beyond_the_trained_length(long: Peers) -> None:
    """The answer goes on with its prompt's rotary base; log-n attention follows the position."""
    rows = [[20], [40], [5]]
    batch = long.batch(rows, seed=3)
    found = greedy(long, batch)
    for b, (length,) in enumerate(rows):
        ids = [*batch["input_ids"][b, batch["attention_mask"][b] == 1].tolist(), *found[b].tolist()]
        with torch.no_grad():
            expected = long_logits(long, ids, length).argmax(-1)[length - 1 : -1].tolist()
        assert found[b].tolist() == expected, length
        assert len(set(expected)) > 4


def test_cached_logits_are_those_of_the_whole_sequence(pair: Peers) -> None:
    batch = pair.batch([[4, 5], [19], [2, 1, 3]], seed=2)
    assert_the_cache_changes_nothing(pair, batch, TEXT)
