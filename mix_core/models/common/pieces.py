"""Cutting a model into pieces that follow each other: blocks of the tower, then layers of the decoder.

A family says in `Cuts` which of its parameters belong where; its `see` and `join`, and the shared decoder,
run a part of the way. Importing this module imports no paddle.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

FIRST, JOINS, LAST = "first", "joins", "last"
"""What is in no block: patch embedding; projector and embedding of tokens; last norm and head."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A run of blocks, and what stands beside them."""

    tower: range
    """Blocks of the vision tower."""
    decoder: range
    """Layers of the decoder."""
    first: bool = False
    """Whether it embeds patches."""
    joins: bool = False
    """Whether the tower ends here: then projector and embedding of tokens are here too."""
    last: bool = False
    """Whether it has the last norm, the head and the loss."""

    @property
    def sees(self) -> bool:
        """Whether it has a part of the tower."""
        return self.first or self.joins or len(self.tower) > 0

    def has(self, place: str | tuple[str, int]) -> bool:
        """Whether what stands at a place of `Cuts.place` is in this piece."""
        if isinstance(place, str):
            return bool(getattr(self, place))
        stack, number = place
        return number in (self.tower if stack == "tower" else self.decoder)

    def __str__(self) -> str:
        counts = (len(self.tower), "vision block"), (len(self.decoder), "layer")
        told = [f"{number} {what}{'s' if number > 1 else ''}" for number, what in counts if number]
        return " and ".join(told) or "no block"


@dataclass(frozen=True, kw_only=True)
class Cuts:
    """Where a family's parameters stand, by how their names in the model begin."""

    blocks: str
    """Before a tower block's number: `visual.blocks.`."""
    before: tuple[str, ...]
    """What patches pass before the first block."""
    after: tuple[str, ...]
    """What they pass after the last one, on the way to the decoder."""
    decoder: str = "model."
    head: str = "lm_head."

    def place(self, name: str) -> str | tuple[str, int]:
        """FIRST, JOINS, LAST, or ("tower" or "decoder", the block's number) of a parameter.

        Raises:
            KeyError: no part of the family has such a name.
        """
        for stack, prefix in (("tower", self.blocks), ("decoder", f"{self.decoder}layers.")):
            if name.startswith(prefix):
                return stack, int(name.removeprefix(prefix).partition(".")[0])
        for place, prefixes in (
            (FIRST, self.before),
            (JOINS, (*self.after, self.embedding)),
            (LAST, (f"{self.decoder}norm.", self.head)),
        ):
            if name.startswith(prefixes):
                return place
        raise KeyError(name)

    @property
    def embedding(self) -> str:
        return f"{self.decoder}embed_tokens."

    def count(self, names: Iterable[str]) -> tuple[int, int]:
        """Blocks of the tower, layers of the decoder, that parameters of these names belong to."""
        places = {self.place(name) for name in names}
        tower, decoder = (
            sum(1 for place in places if not isinstance(place, str) and place[0] == stack)
            for stack in ("tower", "decoder")
        )
        return tower, decoder
