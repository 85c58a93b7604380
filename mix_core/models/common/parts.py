"""Parts of tensors: boxes in a whole, and parameters of which a rank has a part.

Which part it is goes with the parameter: whoever writes, reads or counts one asks here for its place in the
whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paddle import Tensor

HELD = "held"
"""The attribute of a parameter that says which part of the model's it is: its box, and the whole's shape."""

SHARED = "shared"
"""The attribute of a parameter whose gradient is in parts, though it is whole."""


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


def row_part(axis: int, shape: Sequence[int], index: int, parts: int) -> Box:
    """Part `index` of so many along an axis, as evenly as whole numbers allow."""
    start, end = (shape[axis] * i // parts for i in (index, index + 1))
    offset, size = [0] * len(shape), list(shape)
    offset[axis], size[axis] = start, end - start
    return Box(tuple(offset), tuple(size))


def mark_part(part: Tensor, box: Box, whole: Sequence[int]) -> None:
    """Note which part of the model's parameter this one is."""
    setattr(part, HELD, (box, tuple(whole)))


def mark_shared(parameter: Tensor) -> None:
    """Note that each rank which shares layers sees some tokens with this parameter, which all have whole."""
    setattr(parameter, SHARED, True)


def is_shared(parameter: Tensor) -> bool:
    """Whether its gradient is the sum of what those ranks have."""
    return hasattr(parameter, SHARED)


def is_part(parameter: Tensor) -> bool:
    """Whether other ranks have other parts of it."""
    return hasattr(parameter, HELD)


def whole_shape(parameter: Tensor) -> tuple[int, ...]:
    """Shape of the model's parameter."""
    return getattr(parameter, HELD)[1] if is_part(parameter) else tuple(parameter.shape)


def held_box(parameter: Tensor) -> Box:
    """What of it is here."""
    return getattr(parameter, HELD)[0] if is_part(parameter) else whole_box(parameter.shape)


def placed(parameter: Tensor, box: Box) -> Box:
    """A box of what is here, as a box of the model's parameter."""
    if not is_part(parameter):
        return box
    held = held_box(parameter)
    return Box(tuple(map(sum, zip(held.offset, box.offset))), box.shape)
