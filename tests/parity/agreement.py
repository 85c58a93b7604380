"""How ours and a peer are compared in float32, the same for every family: limits, gradients, greedy answers.

A pair has `ours`, `batch(rows, seed=, side=)` and `our_gradients()`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from mix_core.models.common.weights import AnySlot, JoinedSlot

LOGITS, GRADIENTS = 1e-5, 1e-4
"""Limits: relative in norm."""
NEW = 32
"""Tokens of a greedy answer."""
Batch = dict[str, np.ndarray]
MEASURED: dict[str, float] = {}
"""The greatest distances of the test that runs; conftest.py takes them (docs/models.md has them)."""


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def note(kind: str, measured: float) -> float:
    """Keep the greatest of this kind."""
    MEASURED[kind] = max(MEASURED.get(kind, 0.0), measured)
    return measured


def norm(arrays: Mapping[str, np.ndarray]) -> float:
    return float(np.sqrt(sum((array**2).sum() for array in arrays.values())))


def gradients_of(slots: Mapping[str, AnySlot]) -> dict[str, np.ndarray]:
    """By the slots' names and in published shapes, of those that have any."""
    gradients = {}
    for name, slot in slots.items():
        parts = slot.parts if isinstance(slot, JoinedSlot) else (slot,)
        if parts[0].parameter.grad is not None:
            grads = [part.to_published(part.parameter.grad.numpy()) for part in parts]
            gradients[name] = slot.joined(grads) if len(grads) > 1 else grads[0]
    return gradients


def targets(batch: Batch, text: int) -> np.ndarray:
    """Labels: ids below `text` but a row's first, which transformers lets padding predict; we do not."""
    tokens = batch["attention_mask"].astype(bool)
    labels = np.where(tokens & (batch["input_ids"] < text), batch["input_ids"], -100)
    labels[np.arange(len(labels)), tokens.argmax(axis=1)] = -100
    return labels


def assert_same_gradients(
    ours: dict[str, np.ndarray],
    theirs: dict[str, np.ndarray],
    is_rounding: Callable[[str], bool] = lambda name: False,
) -> None:
    """`is_rounding`: names of parameters whose gradient is nothing but rounding."""
    whole = norm(theirs)
    assert set(ours) == set(theirs)
    for name, gradient in theirs.items():
        if is_rounding(name):
            assert max(np.linalg.norm(gradient), np.linalg.norm(ours[name])) < 1e-6 * whole, name
            continue
        of = max(np.linalg.norm(gradient), 1e-6 * whole)
        assert note("gradients", float(np.linalg.norm(ours[name] - gradient) / of)) <= GRADIENTS, name


def assert_same_loss(
    pair: Any, batch: Batch, labels: np.ndarray, logits: torch.Tensor, loss: torch.Tensor
) -> None:
    """Our logits and loss are the peer's; afterwards both have gradients."""
    pair.ours.clear_gradients(set_to_zero=False)
    loss.backward()
    tokens = batch["attention_mask"].astype(bool)
    found, expected = (whole[tokens] for whole in (pair.ours(**batch).numpy(), logits.detach().numpy()))
    assert note("logits", distance(found, expected)) < LOGITS
    our_loss, count = pair.ours.loss(batch | {"labels": labels})
    (our_loss / count).backward()
    assert float(our_loss) / count == pytest.approx(loss.item(), rel=1e-6)


def assert_agrees_with_transformers(
    pair: Any, batch: Batch, text: int = 300, is_rounding: Callable[[str], bool] = lambda name: False
) -> None:
    """Logits, loss and gradients, where the peer is a model of transformers: `theirs`, `for_theirs`."""
    labels = targets(batch, text)
    pair.theirs.zero_grad()
    expected = pair.theirs(**pair.for_theirs(batch), labels=torch.tensor(labels))
    assert_same_loss(pair, batch, labels, expected.logits, expected.loss)
    assert_same_gradients(pair.our_gradients(), pair.their_gradients(), is_rounding)


def assert_agrees(pair: Any, batch: Batch, text: int, logits: torch.Tensor) -> None:
    """The same for a peer that gives logits only, where no gradient of an earlier batch is left."""
    labels = targets(batch, text)
    flat = torch.tensor(labels[:, 1:]).flatten()
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), flat)
    assert_same_loss(pair, batch, labels, logits, loss)
    assert_same_gradients(pair.our_gradients(), pair.their_gradients())


def idle_parameters(pair: Any, batch: Batch, share: float = 1e-7) -> set[str]:
    """Names of parameters whose gradient is below `share` of the whole one, where every token is learned."""
    pair.ours.clear_gradients(set_to_zero=False)
    loss, _ = pair.ours.loss(batch | {"labels": batch["input_ids"]})
    loss.backward()
    gradients = {name: parameter.grad.numpy() for name, parameter in pair.ours.named_parameters()}
    whole = norm(gradients)
    return {name for name, gradient in gradients.items() if np.linalg.norm(gradient) < share * whole}


def assert_padding_does_not_matter(pair: Any, rows: Any) -> None:
    left, right = (pair.batch(rows, side=side) for side in ("left", "right"))
    of_left, of_right = (pair.ours(**batch).numpy() for batch in (left, right))
    for b in range(len(of_left)):
        of_row = (of_left[b][left["attention_mask"][b] == 1], of_right[b][right["attention_mask"][b] == 1])
        assert distance(*of_row) < 1e-6


def greedy(pair: Any, batch: Batch, new: int = NEW) -> np.ndarray:
    """Our answer (B, new)."""
    rows, length = batch["input_ids"].shape
    cache = pair.ours.new_cache(rows, length + new)
    tokens = [pair.ours.prefill(cache, batch).numpy().argmax(-1)]
    while len(tokens) < new:
        tokens.append(pair.ours.decode(cache, tokens[-1]).numpy().argmax(-1))
    return np.stack(tokens, axis=1)


def assert_same_answer(pair: Any, rows: Any, expected: np.ndarray, seed: int = 1) -> None:
    assert expected.shape[1] == NEW
    assert len(np.unique(expected)) > 4, "a constant answer would prove nothing"
    for side in ("left", "right"):
        np.testing.assert_array_equal(greedy(pair, pair.batch(rows, seed=seed, side=side)), expected)


def generated(pair: Any, batch: Batch, given: dict[str, torch.Tensor]) -> np.ndarray:
    """What transformers' `generate` answers (B, NEW)."""
    pair.theirs.generation_config.eos_token_id = None
    tokens = pair.theirs.generate(**given, max_new_tokens=NEW, do_sample=False, pad_token_id=0)
    return tokens[:, batch["input_ids"].shape[1] :].numpy()


def with_answer(batch: Batch, answer: np.ndarray) -> Batch:
    return batch | {
        "input_ids": np.concatenate([batch["input_ids"], answer], axis=1),
        "attention_mask": np.concatenate([batch["attention_mask"], np.ones_like(answer)], axis=1),
    }


def assert_the_cache_changes_nothing(pair: Any, batch: Batch, text: int = 300) -> None:
    """Logits over the cache are those of the whole sequence."""
    rows, length = batch["input_ids"].shape
    cache = pair.ours.new_cache(rows, length + 4)
    found = [pair.ours.prefill(cache, batch).numpy()]
    answer = np.random.default_rng(0).integers(0, text, (rows, 4))
    found += [pair.ours.decode(cache, answer[:, i]).numpy() for i in range(4)]
    expected = pair.ours(**with_answer(batch, answer)).numpy()[:, length - 1 :]
    assert distance(np.stack(found, axis=1), expected) < 1e-6
