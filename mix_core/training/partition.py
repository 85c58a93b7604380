"""How a tensor is divided among ranks: rows of its first axis, as evenly as whole rows allow.

Every part is a box in the whole tensor, so that its place is said by an offset; parts of any number of ranks
can be cut from those of any other number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod


@dataclass(frozen=True)
class Box:
    """A part of a tensor: where it starts in the whole, and its own shape."""

    offset: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Its number of elements."""
        return prod(self.shape)

    @property
    def slices(self) -> tuple[slice, ...]:
        """Of the whole tensor."""
        return tuple(slice(start, start + length) for start, length in zip(self.offset, self.shape))

    def common(self, other: Box) -> Box | None:
        """What both boxes hold of the whole, if anything."""
        starts = tuple(map(max, self.offset, other.offset))
        own = map(sum, zip(self.offset, self.shape))
        ends = map(min, own, map(sum, zip(other.offset, other.shape)))
        shape = tuple(end - start for start, end in zip(starts, ends))
        return Box(starts, shape) if min(shape, default=1) > 0 else None

    def inside(self, other: Box) -> tuple[slice, ...]:
        """This box's slices of `other`, which holds it all."""
        starts = [mine - theirs for mine, theirs in zip(self.offset, other.offset)]
        return tuple(slice(start, start + length) for start, length in zip(starts, self.shape))


def whole_box(shape: Sequence[int]) -> Box:
    return Box((0,) * len(shape), tuple(shape))


def part_of(shape: Sequence[int], index: int, parts: int) -> Box:
    """The part of rank `index` of `parts`; a scalar is the first rank's."""
    if not shape:
        return Box((), ()) if index == 0 else Box((0,), (0,))
    start, end = (shape[0] * i // parts for i in (index, index + 1))
    return Box((start, *(0 for _ in shape[1:])), (end - start, *shape[1:]))
