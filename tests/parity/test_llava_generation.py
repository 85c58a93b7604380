"""Greedy generation of LLaVA: the same 32 tokens as transformers' generate."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("transformers", reason="live parity needs transformers")
pytest.importorskip("torch", reason="live parity needs torch")

from tests.parity.llava_peer import Peers
from tests.parity.peer import distance

NEW = 32
ROWS = [[4, (40, 30), 5], [19], [2, (5, 90), 1, (64, 64), 3]]


@pytest.fixture(scope="module", params=["1.5", "1.6"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Peers:
    made = Peers(tmp_path_factory.mktemp("peers"), anyres=request.param == "1.6")
    made.theirs.generation_config.eos_token_id = None
    return made


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


def test_the_same_tokens(pair: Peers) -> None:
    batch = pair.batch(ROWS, seed=1)
    theirs = pair.theirs.generate(
        **pair.for_theirs(batch), max_new_tokens=NEW, do_sample=False, pad_token_id=0
    )
    expected = theirs[:, batch["input_ids"].shape[1] :].numpy()
    assert expected.shape[1] == NEW
    assert len(np.unique(expected)) > 4, "a constant answer would prove nothing"
    for side in ("left", "right"):
        np.testing.assert_array_equal(greedy(pair, pair.batch(ROWS, seed=1, side=side)), expected)


def test_cached_logits_are_those_of_the_whole_sequence(pair: Peers) -> None:
    batch = pair.batch(ROWS, seed=2)
    rows, length = batch["input_ids"].shape
    cache = pair.ours.new_cache(rows, length + 4)
    found = [pair.ours.prefill(cache, batch).numpy()]
    answer = np.random.default_rng(0).integers(0, 300, (rows, 4))
    found += [pair.ours.decode(cache, answer[:, i]).numpy() for i in range(4)]
    whole = batch | {
        "input_ids": np.concatenate([batch["input_ids"], answer], axis=1),
        "attention_mask": np.concatenate([batch["attention_mask"], np.ones_like(answer)], axis=1),
    }
    expected = pair.ours(**whole).numpy()[:, length - 1 :]
    assert distance(np.stack(found, axis=1), expected) < 1e-6
