"""How a tensor is divided among ranks: rows of its first axis, as evenly as whole rows allow.

Every part is a box in the whole tensor, so that its place is said by an offset; parts of any number of ranks
can be cut from those of any other number.
"""

from __future__ import annotations

from collections.abc import Sequence

from mix_core.models.common.parts import Box, whole_box

__all__ = ["Box", "part_of", "whole_box"]


def part_of(shape: Sequence[int], index: int, parts: int) -> Box:
    """The part of rank `index` of `parts`; a scalar is the first rank's."""
    if not shape:
        return Box((), ()) if index == 0 else Box((0,), (0,))
    start, end = (shape[0] * i // parts for i in (index, index + 1))
    return Box((start, *(0 for _ in shape[1:])), (end - start, *shape[1:]))
