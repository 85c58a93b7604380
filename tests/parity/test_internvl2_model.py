"""InternVL2 against transformers' parts in float32 with random weights: logits, gradients, greedy tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers", reason="live parity needs transformers")
pytest.importorskip("torch", reason="live parity needs torch")

from tests.parity.agreement import NEW, assert_agrees, assert_same_answer, distance, greedy
from tests.parity.internvl2_peer import Peers

MIXED: list[list[Any]] = [[4, ("image", 3), 5], [19], [2, ("image", 1), 1, ("image", 2), 3]]
"""Rows of several lengths: one picture, none, two."""
SIX_B = {"norm_type": "rms_norm", "qk_normalization": True, "qkv_bias": False}
CASES: dict[str, dict[str, Any]] = {
    "internlm2, heads 4 over 2": {},
    "internlm2, heads 6 over 2": {"text": {"hidden_size": 96, "num_attention_heads": 6}},
    "internlm2, heads 4 over 4": {"text": {"num_key_value_heads": 4, "rope_scaling": None}},
    "qwen2": {"decoder": "qwen2", "text": {"num_key_value_heads": 1}},
    "qwen2, tied": {"decoder": "qwen2", "text": {"tie_word_embeddings": True}},
    "llama": {"decoder": "llama", "text": {"rope_scaling": None}},
    "the 6B tower": {"vision": SIX_B},
    "resized positions": {"force_image_size": 42},
    "smaller tiles": {"force_image_size": 14},
    "pixel shuffle v1": {"ps_version": "v1"},
    "past the trained length": {"text": {"max_position_embeddings": 24}},
    "qwen2 past the trained length": {"decoder": "qwen2", "text": {"max_position_embeddings": 24}},
}
FAST = {
    "internlm2, heads 4 over 2",
    "qwen2",
    "the 6B tower",
    "resized positions",
    "pixel shuffle v1",
    "past the trained length",
}
GREEDY = ("internlm2, heads 6 over 2", "qwen2", "qwen2, tied", "llama", "past the trained length")


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory):
    made: dict[str, Peers] = {}

    def get(case: str) -> Peers:
        if case not in made:
            made[case] = Peers(tmp_path_factory.mktemp("peers"), **CASES[case])
        return made[case]

    return get


def rows_for(case: str) -> list[list[Any]]:
    """One row where the length decides on the rotary base: there it has one base for a whole batch."""
    return [[9, ("image", 3), 12]] if "trained length" in case else MIXED


@pytest.mark.parametrize(
    "case", [case if case in FAST else pytest.param(case, marks=pytest.mark.slow) for case in CASES]
)
def test_logits_and_gradients(peers, case: str) -> None:
    pair: Peers = peers(case)
    pair.zero_grad()
    batch = pair.batch(rows_for(case))
    assert_agrees(pair, batch, 400, pair.logits(batch))


@pytest.mark.parametrize(
    "case", ["internlm2, heads 4 over 2", *(pytest.param(case, marks=pytest.mark.slow) for case in GREEDY)]
)
def test_the_same_greedy_tokens(peers, case: str) -> None:
    pair: Peers = peers(case)
    expected = pair.generate(pair.batch(rows_for(case), seed=1), NEW)
    assert_same_answer(pair, rows_for(case), expected)


def test_answers_that_pass_the_trained_length(tmp_path) -> None:
    """The prompt is within it, the answer is not: the base grows while the cache keeps what it has."""
    pair = Peers(tmp_path, text={"max_position_embeddings": 40})
    batch = pair.batch([[6, ("image", 4), 7]])
    assert batch["input_ids"].shape[1] < 40
    np.testing.assert_array_equal(greedy(pair, batch), pair.generate(batch, NEW))


def test_the_tower_alone(peers) -> None:
    pair: Peers = peers("resized positions")
    pixels = pair.batch([[("image", 2)]])["pixel_values"]
    expected = pair.image_tokens(pixels).detach().numpy()
    assert distance(pair.ours.image_tokens(pixels).numpy(), expected) < 1e-6


def test_an_earlier_state_of_the_tower(tmp_path) -> None:
    pair = Peers(tmp_path, select_layer=-2, vision={"num_hidden_layers": 3})
    pixels = pair.batch([[("image", 2)]])["pixel_values"]
    assert distance(pair.ours.image_tokens(pixels).numpy(), pair.image_tokens(pixels).detach().numpy()) < 1e-6
