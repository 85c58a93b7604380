"""Greedy generation of Qwen-VL: the same 32 tokens as the reference, beyond the trained length too."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("transformers", reason="live parity needs transformers")
torch = pytest.importorskip("torch", reason="live parity needs torch")

from tests.parity.qwen_vl_peer import Peers, distance, long_logits  # noqa: E402

NEW = 32


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Peers:
    return Peers(tmp_path_factory.mktemp("peers"))


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Peers:
    return Peers(tmp_path_factory.mktemp("long"), seq_length=24)


def greedy(pair: Peers, batch: dict[str, np.ndarray]) -> np.ndarray:
    rows, length = batch["input_ids"].shape
    cache = pair.ours.new_cache(rows, length + NEW)
    logits = pair.ours.prefill(cache, batch)
    tokens = []
    for step in range(NEW):
        tokens.append(logits.numpy().argmax(-1))
        if step < NEW - 1:
            logits = pair.ours.decode(cache, tokens[-1])
    return np.stack(tokens, axis=1)


def with_answer(batch: dict[str, np.ndarray], answer: np.ndarray) -> dict[str, np.ndarray]:
    return batch | {
        "input_ids": np.concatenate([batch["input_ids"], answer], axis=1),
        "attention_mask": np.concatenate([batch["attention_mask"], np.ones_like(answer)], axis=1),
    }


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
    rows, length = batch["input_ids"].shape
    cache = pair.ours.new_cache(rows, length + 4)
    found = [pair.ours.prefill(cache, batch).numpy()]
    answer = np.random.default_rng(0).integers(0, 280, (rows, 4))
    found += [pair.ours.decode(cache, answer[:, i]).numpy() for i in range(4)]
    expected = pair.ours(**with_answer(batch, answer)).numpy()[:, length - 1 :]
    assert distance(np.stack(found, axis=1), expected) < 1e-6
