"""Generation over the static key/value cache, for a batch of prompts at once.

Shapes: B batch, S longest prompt, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np

from mix_core.errors import BadInputError
from mix_core.inference.sampling import Sampler, row_keys
from mix_core.inference.streaming import StopStrings

Decode = Callable[[list[int]], str]


def generate(
    model: Any,
    batch: dict[str, np.ndarray],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    stop_token_ids: Collection[int] = (),
    stop_strings: Sequence[str] = (),
    decode: Decode | None = None,
    on_token: Callable[[int, int], None] | None = None,
) -> list[list[int]]:
    """New token ids of each row, the stop token that ended it included. Parameters as in `token_steps`.

    Args:
        on_token: called with (row, token id) as each token comes.
    """
    answers: list[list[int]] = [[] for _ in batch["input_ids"]]
    for tokens in token_steps(
        model,
        batch,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        stop_token_ids=stop_token_ids,
        stop_strings=stop_strings,
        decode=decode,
    ):
        for row, token in enumerate(tokens):
            if token is not None:
                answers[row].append(token)
                if on_token is not None:
                    on_token(row, token)
    return answers


def token_steps(
    model: Any,
    batch: dict[str, np.ndarray],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    stop_token_ids: Collection[int] = (),
    stop_strings: Sequence[str] = (),
    decode: Decode | None = None,
) -> Iterator[list[int | None]]:
    """Yield the new token of each row, step by step; None for a row that has ended.

    It ends when every row has: at a stop token, at a stop string, or after `max_new_tokens`.

    Args:
        model: has `new_cache`, `prefill` and `decode`; it should be in `eval()` mode.
        batch: input_ids (B, S) and what else the model takes; padding (attention_mask) on either side.
        stop_strings: a row ends when its new text contains one; needs `decode`, token ids -> text.
    Raises:
        BadInputError: a parameter outside its range.
    """
    if max_new_tokens < 1:
        raise BadInputError(f"max_new_tokens is {max_new_tokens}, expected 1 or more")
    if stop_strings and decode is None:
        raise BadInputError("stop strings need decode=, the function from token ids to text")
    input_ids_BS = np.asarray(batch["input_ids"])
    B, S = input_ids_BS.shape
    mask_BS = batch.get("attention_mask")
    keys_B2 = row_keys(input_ids_BS, np.ones((B, S)) if mask_BS is None else np.asarray(mask_BS), seed)
    sampler = Sampler(keys_B2, temperature=temperature, top_k=top_k, top_p=top_p)
    stops = [StopStrings(stop_strings, decode) for _ in range(B)] if decode and stop_strings else None
    stop_ids = frozenset(stop_token_ids)
    running = np.ones(B, bool)
    cache = model.new_cache(B, S + max_new_tokens)
    logits_BV = model.prefill(cache, batch)
    for step in range(max_new_tokens):
        ids_B = sampler.pick(logits_BV, step)
        tokens = [int(token) if alive else None for token, alive in zip(ids_B, running)]
        for row in np.flatnonzero(running):
            ended = int(ids_B[row]) in stop_ids or (stops is not None and stops[row].met(int(ids_B[row])))
            running[row] = not ended
        yield tokens
        if step + 1 == max_new_tokens or not running.any():
            return
        logits_BV = model.decode(cache, ids_B)
