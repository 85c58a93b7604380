"""Packing: whole samples side by side in a budget of tokens, without one seeing another.

Samples are taken in the order of the stream until there is room for about two more. That room goes to samples
from further on: best fit, the largest that fits (Johnson, "Near-optimal bin packing algorithms", 1973), and
where more than 1/32 of the budget stays empty, the best sum of those that wait. The sample whose turn it was
begins the next pack, so none waits for long, and how far is looked ahead is bounded.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from mix_core.errors import DataError

LOOK_AHEAD = 512
"""Samples that wait to be packed, where the limit of tokens allows."""
LOOK_AHEAD_TOKENS = 1 << 18
"""Tokens that wait beyond one budget: their samples are in memory, pictures included."""
POOR_SHARE = 5
"""A pack with more than capacity >> POOR_SHARE tokens of room is searched for a better sum."""

_PLACE_BITS = 40
_LAST = (1 << _PLACE_BITS) - 1


class Packer:
    """Samples that wait, and the packs that are made of them. The same samples give the same packs."""

    def __init__(self, capacity: int, look_ahead_tokens: int | None = LOOK_AHEAD_TOKENS) -> None:
        """`capacity`: tokens of a pack. `look_ahead_tokens`: None sets no limit."""
        self.capacity = capacity
        self.tokens = 0
        """Of all that wait."""
        self._most_tokens = math.inf if look_ahead_tokens is None else capacity + look_ahead_tokens
        # A key orders by length, and among equals the older one last: it is the one found first.
        self._keys: list[int] = []
        self._arrivals: deque[int] = deque()
        """Keys in the order of arrival, those packed before their turn too."""
        self._early: set[int] = set()
        """Of the arrivals, those that are packed."""

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def wants(self) -> bool:
        """Whether to look further ahead before the next pack is made."""
        if self.tokens < 2 * self.capacity:
            return True
        return len(self._keys) < LOOK_AHEAD and self.tokens < self._most_tokens

    @property
    def places(self) -> list[int]:
        """The places that wait, oldest first."""
        return [_LAST - (key & _LAST) for key in self._arrivals if key not in self._early]

    def add(self, places: Iterable[int], lengths: Sequence[int]) -> None:
        """Let samples wait; places grow. Raises DataError for one that is longer than a pack."""
        if lengths and not 0 < min(lengths) <= max(lengths) <= self.capacity:
            raise DataError(f"a sample of {max(lengths)} tokens does not fit a pack of {self.capacity}")
        keys = [length << _PLACE_BITS | (_LAST - place) for place, length in zip(places, lengths)]
        self._keys += keys
        self._keys.sort()
        self._arrivals += keys
        self.tokens += sum(lengths)

    def take(self, at_most: int | None = None) -> list[int]:
        """The places of the next pack, [] when none waits.

        `at_most`: another number of tokens for this one, exceeded by a first sample that is longer.
        """
        given = at_most or self.capacity
        pack, room = self._in_order(given)
        kept, keys = len(pack), self._keys
        while keys and (above := (room + 1) << _PLACE_BITS) > keys[0]:
            key = keys.pop(bisect_left(keys, above) - 1)
            pack.append(key)
            room -= key >> _PLACE_BITS
        if room > self.capacity >> POOR_SHARE and keys:
            room = self._improve(pack, kept, room)
        self._early.update(pack[kept:])
        self.tokens -= given - room
        return [_LAST - (key & _LAST) for key in pack]

    def _in_order(self, room: int) -> tuple[list[int], int]:
        """Keys of the samples that come next, until about two more fit, and the room that is left."""
        keys, arrivals, early = self._keys, self._arrivals, self._early
        taken: list[int] = []
        while keys:
            if taken and room < 2 * (keys[len(keys) // 2] >> _PLACE_BITS):
                break
            while (key := arrivals[0]) in early:
                early.remove(arrivals.popleft())
            length = key >> _PLACE_BITS
            if taken and room < 2 * length:
                break
            arrivals.popleft()
            del keys[bisect_left(keys, key)]
            taken.append(key)
            room -= length
        return taken, room

    def _improve(self, pack: list[int], kept: int, room: int) -> int:
        """Replace what best fit chose, after the first `kept`, by the sum that leaves the least room.

        Bit n of `reached` says that n tokens can be had exactly.
        """
        keys = self._keys
        for key in pack[kept:]:
            insort(keys, key)
            room += key >> _PLACE_BITS
        enough = room - (self.capacity >> (POOR_SHARE + 1))
        every, reached = (1 << (room + 1)) - 1, 1
        tried: list[tuple[int, int]] = []
        end = bisect_left(keys, (room + 1) << _PLACE_BITS)
        while end and not reached >> enough:
            length = keys[end - 1] >> _PLACE_BITS
            start = bisect_left(keys, length << _PLACE_BITS)
            for at in range(end - 1, max(start, end - room // length) - 1, -1):
                tried.append((keys[at], reached))
                reached = (reached | reached << length) & every
            end = start
        total = reached.bit_length() - 1
        left = room - total
        chosen = []
        for key, earlier in reversed(tried):
            if not earlier >> total & 1:
                chosen.append(key)
                total -= key >> _PLACE_BITS
        for key in chosen:
            del keys[bisect_left(keys, key)]
        pack[kept:] = chosen
        return left


def pack(lengths: Iterable[int], capacity: int) -> Iterator[list[int]]:
    """Places of the samples in each pack, for lengths that are known, with no limit on the tokens that wait.

    Raises DataError for a sample longer than `capacity`; whether such a sample is an error, cut or left out
    is decided before, by `on_too_long`.
    """
    packer = Packer(capacity, look_ahead_tokens=None)
    coming = iter(lengths)
    done = 0
    while True:
        while packer.wants and (block := list(islice(coming, LOOK_AHEAD))):
            packer.add(range(done, done + len(block)), block)
            done += len(block)
        packed = packer.take()
        if not packed:
            return
        yield packed
