"""The loop over the cache, with a model that says what it is told to: who ends when, and what comes out."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest

from mix_core.errors import BadInputError
from mix_core.inference.generation import generate, token_steps

END = 9


class Script:
    """A model whose row r says `script[r]`, one token a step, and records what it is asked."""

    def __init__(self, script: list[list[int]]) -> None:
        self.script = script
        self.said = 0
        self.fed: list[list[int]] = []
        self.slots: int | None = None

    def new_cache(self, batch_size: int, max_length: int) -> str:
        assert batch_size == len(self.script)
        self.slots = max_length
        return "cache"

    def _logits(self) -> Any:
        logits = np.zeros((len(self.script), 10), np.float32)
        for row, tokens in enumerate(self.script):
            logits[row, tokens[min(self.said, len(tokens) - 1)]] = 5.0
        self.said += 1
        return paddle.to_tensor(logits)

    def prefill(self, cache: str, batch: dict[str, np.ndarray]) -> Any:
        return self._logits()

    def decode(self, cache: str, ids_B: np.ndarray) -> Any:
        self.fed.append([int(i) for i in ids_B])
        return self._logits()


def prompts(rows: int, length: int = 3) -> dict[str, np.ndarray]:
    ids = np.arange(rows * length).reshape(rows, length)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def test_rows_end_at_their_stop_token_and_all_end_the_loop():
    model = Script([[1, END, 2], [3, 4, 5, END, 6], [7, END]])
    assert generate(model, prompts(3), max_new_tokens=20, stop_token_ids=(END, 8)) == [
        [1, END],
        [3, 4, 5, END],
        [7, END],
    ]
    assert len(model.fed) == 3, "no step after the last row has ended"
    assert model.slots == 3 + 20


def test_max_new_tokens_and_no_decode_whose_logits_nobody_reads():
    model = Script([[1, 2, 3, 4, 5]])
    assert generate(model, prompts(1), max_new_tokens=3) == [[1, 2, 3]]
    assert model.fed == [[1], [2]]


def test_stop_strings_end_a_row_with_the_token_that_completes_them():
    model = Script([[1, 2, 3, 4], [2, 3, 1, 4], [3, 3, 3, 3]])
    got = generate(
        model,
        prompts(3),
        max_new_tokens=4,
        stop_strings=["12", "31"],
        decode=lambda ids: "".join(map(str, ids)),
    )
    assert got == [[1, 2], [2, 3, 1], [3, 3, 3, 3]]


def test_steps_give_none_for_rows_that_have_ended_and_tokens_are_told():
    model = Script([[END], [1, 2, END]])
    assert list(token_steps(model, prompts(2), max_new_tokens=5, stop_token_ids=[END])) == [
        [END, 1],
        [None, 2],
        [None, END],
    ]
    told: list[tuple[int, int]] = []
    generate(
        Script([[END], [1, END]]),
        prompts(2),
        max_new_tokens=5,
        stop_token_ids=[END],
        on_token=lambda row, token: told.append((row, token)),
    )
    assert told == [(0, END), (1, 1), (1, END)]


def test_bad_values():
    with pytest.raises(BadInputError, match="max_new_tokens is 0"):
        generate(Script([[1]]), prompts(1), max_new_tokens=0)
    with pytest.raises(BadInputError, match="decode"):
        generate(Script([[1]]), prompts(1), max_new_tokens=1, stop_strings=["a"])
