"""Every family's model in pieces: what they make one after the other is what the whole makes."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest

from mix_core.conformance.tiny_runs import built, tiny_families
from mix_core.models.common.pieces import Piece, whole_piece


def in_three(blocks: int, layers: int) -> list[Piece]:
    """A part of the tower; the rest of it and a part of the decoder; the rest."""
    cut, text = max(1, blocks // 2), layers - 1
    return [
        Piece(tower=range(cut), decoder=range(0), first=True),
        Piece(tower=range(cut, blocks), decoder=range(text), joins=True),
        Piece(tower=range(blocks, blocks), decoder=range(text, layers), last=True),
    ]


def without_pictures(batch: dict[str, Any]) -> dict[str, Any]:
    """As many tokens, all of them text."""
    kept = {name: batch[name] for name in ("attention_mask", "labels", "sample_ids") if name in batch}
    return kept | {"input_ids": np.full_like(batch["input_ids"], 5)}


def run(model: Any, batch: dict[str, Any], pieces: list[Piece]) -> tuple[float, int, dict[str, np.ndarray]]:
    """Forward and backward as a pipeline's stages do: each knows the tensor that it got, and no graph."""
    model.train()
    model.clear_gradients()
    kept: list[tuple[Any, Any]] = []
    x = None
    for piece in pieces:
        given = None if x is None else x.detach()
        if given is not None:
            given.stop_gradient = x.stop_gradient
        if model.random is not None:
            model.random.start(seed=1, step=1, samples=batch.get("sample_ids", np.arange(8)))
        x = model.part(batch, piece, given)
        kept.append((given, x))
    (loss, count), gradient = x, None
    for given, out in reversed(kept):
        if isinstance(out, tuple):
            loss.backward()
        elif out is not None and not out.stop_gradient:
            paddle.autograd.backward([out], [gradient])
        gradient = None if given is None else given.grad
    found = {name: one.grad.numpy() for name, one in model.named_parameters() if one.grad is not None}
    return float(loss), count, found


@pytest.mark.parametrize("family", tiny_families())
@pytest.mark.parametrize("pictures", [True, False], ids=["pictures", "text"])
def test_pieces_make_what_the_whole_makes(family, pictures):
    model, batch = built(family)
    names = [name for name, _ in model.named_parameters()]
    blocks, layers = model.cuts.count(names)
    if not pictures:
        batch = without_pictures(batch)
    model.model.embed_tokens.is_head = False  # its use as the head is in another piece
    loss, count, gradients = run(model, batch, in_three(blocks, layers))
    wanted, labels, others = run(model, batch, [whole_piece(blocks, layers)])
    assert (loss, count) == (pytest.approx(wanted, rel=1e-6), labels) and count > 0
    assert gradients.keys() == others.keys()
    for name, gradient in gradients.items():
        away = np.linalg.norm(gradient - others[name])
        assert away <= 1e-5 * np.linalg.norm(others[name]) + 1e-9, name


@pytest.mark.parametrize("family", tiny_families())
def test_every_parameter_is_in_one_piece(family):
    model, _ = built(family)
    names = [name for name, _ in model.named_parameters()]
    pieces = in_three(*model.cuts.count(names))
    for name in names:
        place = model.cuts.place(name)
        assert sum(piece.has(place) for piece in pieces) == 1, name
