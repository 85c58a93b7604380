"""Where models may be cut: every parameter is in one piece."""

from __future__ import annotations

import pytest

from mix_core.conformance.tiny_runs import built, tiny_families
from mix_core.models.common.pieces import Cuts, Piece


@pytest.mark.parametrize("family", tiny_families())
def test_every_parameter_is_in_one_piece(family):
    model, _ = built(family)
    names = [name for name, _ in model.named_parameters()]
    blocks, layers = model.cuts.count(names)
    pieces = [
        Piece(tower=range(1), decoder=range(0), first=True),
        Piece(tower=range(1, blocks), decoder=range(1), joins=True),
        Piece(tower=range(blocks, blocks), decoder=range(1, layers), last=True),
    ]
    for name in names:
        place = model.cuts.place(name)
        assert sum(piece.has(place) for piece in pieces) == 1, name


def test_a_name_of_no_part_is_told():
    with pytest.raises(KeyError, match=r"adapter\.weight"):
        Cuts(blocks="visual.blocks.", before=(), after=()).place("adapter.weight")
