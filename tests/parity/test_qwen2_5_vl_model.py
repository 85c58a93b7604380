"""Qwen2.5-VL against transformers in float32 with random weights: logits and gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers", reason="live parity needs transformers")
torch = pytest.importorskip("torch", reason="live parity needs torch")

from tests.parity.peer import Peers, as_numpy, distance  # noqa: E402

LOGITS, GRADIENTS = 1e-5, 1e-4
"""Limits: relative in norm."""

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
    batch = pair.batch(ROWS[rows])
    tokens = batch["attention_mask"].astype(bool)
    labels = np.where(tokens & (batch["input_ids"] < 300), batch["input_ids"], -100)
    # transformers lets the padding before a row predict its first token; we do not
    labels[np.arange(len(labels)), tokens.argmax(axis=1)] = -100
    pair.theirs.zero_grad()
    pair.ours.clear_gradients(set_to_zero=False)

    expected = pair.theirs(**pair.for_theirs(batch), labels=torch.tensor(labels))
    expected.loss.backward()
    logits = pair.ours(**batch).numpy()
    loss, count = pair.ours.loss(batch | {"labels": labels})
    (loss / count).backward()

    assert distance(logits[tokens], as_numpy(expected.logits)[tokens]) < LOGITS
    assert float(loss) / count == pytest.approx(expected.loss.item(), rel=1e-6)
    theirs, ours = pair.their_gradients(), pair.our_gradients()
    whole = np.sqrt(sum((gradient**2).sum() for gradient in theirs.values()))
    assert set(ours) == set(theirs)
    for name, gradient in theirs.items():
        limit = GRADIENTS * max(np.linalg.norm(gradient), 1e-6 * whole)
        assert np.linalg.norm(ours[name] - gradient) <= limit, name


def test_every_parameter_learns_but_those_listed(peers) -> None:
    pair: Peers = peers("tied, heads 4 over 2")
    batch = pair.batch(ROWS["left-padded mixed batch"])
    pair.ours.clear_gradients(set_to_zero=False)
    loss, _ = pair.ours.loss(batch | {"labels": batch["input_ids"]})
    loss.backward()
    gradients = pair.our_gradients()
    assert set(gradients) == {name for name, _ in pair.ours.named_parameters()}
    whole = np.sqrt(sum((gradient**2).sum() for gradient in gradients.values()))
    assert {n for n, g in gradients.items() if np.linalg.norm(g) < 1e-7 * whole} == CANNOT_LEARN


def test_padding_on_the_right_gives_the_same_logits(peers) -> None:
    pair: Peers = peers("tied, heads 4 over 2")
    left, right = (pair.batch(ROWS["left-padded mixed batch"], side=side) for side in ("left", "right"))
    of_left, of_right = (pair.ours(**batch).numpy() for batch in (left, right))
    for b in range(len(of_left)):
        of_row = (of_left[b][left["attention_mask"][b] == 1], of_right[b][right["attention_mask"][b] == 1])
        assert distance(*of_row) < 1e-6


def test_a_long_context_stays_close(peers) -> None:
    pair: Peers = peers("tied, heads 4 over 2")
    batch = pair.batch([[300, ("image", (1, 20, 12)), 400]])
    with torch.no_grad():
        expected = pair.theirs(**pair.for_theirs(batch)).logits.numpy()
    assert distance(pair.ours(**batch).numpy(), expected) < LOGITS
