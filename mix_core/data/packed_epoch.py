"""The packs of one epoch: visits read ahead, packed, and where the next one reads on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from mix_core.data.packing import Packer


class PackedEpoch:
    """Packs the visits of an epoch, in their order but for what fills a pack's end.

    Its state is `front` and `waiting`: an epoch that starts from them goes on with the same packs.
    """

    def __init__(
        self,
        visits: int,
        capacity: int,
        length_of: Callable[[int], int | None],
        *,
        front: int = 0,
        waiting: Sequence[int] = (),
    ) -> None:
        """`length_of`: tokens of a visit's sample, None where it is left out. `front`: the first visit that
        has not been read; `waiting`: those read before it and not packed."""
        self.visits, self.front = visits, front
        self.left_out = 0
        """Visits without a sample, of those read here; whoever counts them sets it back."""
        self._length_of = length_of
        self._packer = Packer(capacity)
        for place in waiting:
            self._add(place)

    @property
    def waiting(self) -> list[int]:
        """Visits that are read and not packed, in order."""
        return self._packer.places

    def next(self) -> list[int]:
        """The visits of the next pack; [] when none is left. An epoch's last two packs are of like size."""
        packer = self._packer
        while self.front < self.visits and packer.wants:
            self._add(self.front)
            self.front += 1
        is_last_but_one = self.front == self.visits and packer.capacity < packer.tokens <= 2 * packer.capacity
        return packer.take(math.ceil(packer.tokens / 2) if is_last_but_one else None)

    def count(self) -> int:
        """How many packs are left; uses them up."""
        packs = 0
        while self.next():
            packs += 1
        return packs

    def _add(self, place: int) -> None:
        length = self._length_of(place)
        if length is None:
            self.left_out += 1
        else:
            self._packer.add([place], [length])
