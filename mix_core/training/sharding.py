"""Sharding: data-parallel ranks share what each of them would hold alike.

| stage | each rank holds a part of | and all of |
|---|---|---|
| 1 | moments, masters | gradients of a step, parameters |
| 2 | moments, masters, gradients | parameters, the gradients of one message |
| 3 | moments, masters, gradients, parameters | those of one block; all step long, of what is in no block |

Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", 2020. A part is
rows of a parameter's first axis (partition.py). Paddle's own `group_sharded_parallel` wraps one of Paddle's
optimizers and takes no device but some by name; what is shared here is the state of ours.

Ranks may differ in which parameters get a gradient (text alone), and in how many passes they have; messages
are sent in one fixed order by all of them, with zeros for what is not there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import paddle
import paddle.distributed as dist
from paddle import Tensor

from mix_core.models.common.pieces import FIRST, JOINS, LAST
from mix_core.training.partition import Box, part_of, whole_box

if TYPE_CHECKING:
    from mix_core.training.groups import Groups

BUCKET_BYTES = 32 << 20
"""Parameters are joined into messages of about this size: a small message costs as much as its latency."""


@dataclass
class Bucket:
    """Parameters whose gradients travel in one message."""

    names: list[str] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)

    def boxes(self, rank: int, ranks: int) -> list[Box]:
        return [part_of(shape, rank, ranks) for shape in self.shapes]

    def lengths(self, ranks: int) -> list[int]:
        """Elements of each rank's parts together."""
        return [sum(box.size for box in self.boxes(rank, ranks)) for rank in range(ranks)]


def buckets_of(shapes: Mapping[str, Sequence[int]], limit_bytes: int = BUCKET_BYTES) -> list[Bucket]:
    """All parameters in messages, last ones first: in forward order, their gradients are there first."""
    found, held = [Bucket()], 0
    for name, shape in reversed(shapes.items()):
        size = 4 * whole_box(shape).size
        if found[-1].names and held + size > limit_bytes:
            found.append(Bucket())
            held = 0
        found[-1].names.append(name)
        found[-1].shapes.append(tuple(shape))
        held += size
    return found


def forward_order(model: Any, names: Iterable[str]) -> list[str]:
    """Names of parameters as a pass comes to them, where the model says what comes when (its `cuts`)."""
    cuts = getattr(model, "cuts", None)
    if cuts is None:
        return list(names)
    moments = {FIRST: (0, 0), "tower": (1, 0), JOINS: (2, 0), "decoder": (3, 0), LAST: (4, 0)}

    def moment(name: str) -> tuple[int, int]:
        place = cuts.place(name)
        return moments[place] if isinstance(place, str) else (moments[place[0]][0], place[1])

    return sorted(names, key=moment)


class InOrder:
    """Lets messages go in one order on all ranks, each when all its parameters have arrived."""

    def __init__(self, buckets: list[Bucket], send: Callable[[Bucket], None]) -> None:
        self.buckets, self._send = buckets, send
        self._arrived: set[str] = set()
        """Parameters whose message has not gone."""
        self._sent = 0

    def arrived(self, name: str) -> None:
        self._arrived.add(name)
        while self._sent < len(self.buckets) and self._arrived.issuperset(self.buckets[self._sent].names):
            self._send_next()

    def send_rest(self) -> None:
        """Those that have not gone since the last call, complete or not."""
        while self._sent < len(self.buckets):
            self._send_next()
        self._sent = 0

    def forget(self) -> None:
        """What has arrived and was not sent."""
        self._arrived.clear()

    def _send_next(self) -> None:
        bucket = self.buckets[self._sent]
        self._send(bucket)
        self._arrived.difference_update(bucket.names)
        self._sent += 1


class Sharding:
    """The ranks that share, and what they tell each other.

    All ranks have to make one.

    Args:
        scatters: whether the device's collectives have `reduce_scatter`; else a sum takes its place.
    """

    def __init__(self, groups: Groups, *, scatters: bool = True) -> None:
        layout = groups.layout
        self.stage, self.degree, self.scatters = layout.stage, layout.sharing, scatters
        self.index = groups.place.sharding
        """Which part is this rank's."""
        self._group, self._replicas = groups.along("sharding"), groups.along("data")
        self._replicated = groups.size("data") > 1

    def box(self, shape: Sequence[int]) -> Box:
        """This rank's part of a tensor."""
        return part_of(shape, self.index, self.degree)

    @paddle.no_grad()
    def sum_parts(self, bucket: Bucket, tensors: Sequence[Tensor | None]) -> dict[str, Tensor]:
        """Sum float32 tensors over all ranks; None is zero -> this rank's parts of the sums, by name."""
        lengths = bucket.lengths(self.degree)
        longest = max(lengths)
        flat = []
        for rank, length in enumerate(lengths):
            for tensor, box in zip(tensors, bucket.boxes(rank, self.degree)):
                if box.size:
                    flat.append(paddle.zeros([box.size]) if tensor is None else _rows(tensor, box))
            if length < longest:
                flat.append(paddle.zeros([longest - length]))
        joined = paddle.concat(flat) if len(flat) > 1 else flat[0]
        flat.clear()  # a message is large: as little of it as may be is held beside it
        own = self._scattered(joined, longest)
        del joined
        if self._replicated:
            dist.all_reduce(own, group=self._replicas)
        return self._split(bucket, own)

    def _scattered(self, joined: Tensor, longest: int) -> Tensor:
        if self.scatters:
            own = paddle.empty([longest], dtype="float32")
            dist.stream.reduce_scatter(own, joined, group=self._group, sync_op=True)
            return own
        dist.all_reduce(joined, group=self._group)
        return paddle.slice(joined, [0], [self.index * longest], [(self.index + 1) * longest])

    def _split(self, bucket: Bucket, flat: Tensor) -> dict[str, Tensor]:
        """This rank's parts, from one after another."""
        found, start = {}, 0
        for name, box in zip(bucket.names, bucket.boxes(self.index, self.degree)):
            if box.size:
                part = paddle.slice(flat, [0], [start], [start + box.size])
                found[name] = part.reshape(list(box.shape))
                start += box.size
        return found

    @paddle.no_grad()
    def gather(self, bucket: Bucket, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Put tensors together from the parts of all ranks -> whole tensors by name, in the parts' dtype."""
        lengths = bucket.lengths(self.degree)
        own = [parts[name].reshape([-1]) for name in bucket.names if name in parts]
        dtype = next(iter(parts.values())).dtype
        padding = max(lengths) - lengths[self.index]
        if padding:
            own.append(paddle.zeros([padding], dtype=dtype))
        everyone: list[Tensor] = []
        dist.all_gather(everyone, paddle.concat(own) if len(own) > 1 else own[0], group=self._group)
        pieces: dict[str, list[Tensor]] = {name: [] for name in bucket.names}
        for rank, flat in enumerate(everyone):
            start = 0
            for name, box in zip(bucket.names, bucket.boxes(rank, self.degree)):
                if box.size:
                    pieces[name].append(paddle.slice(flat, [0], [start], [start + box.size]))
                    start += box.size
        return {
            name: (paddle.concat(pieces[name]) if len(pieces[name]) > 1 else pieces[name][0]).reshape(
                list(shape)
            )
            for name, shape in zip(bucket.names, bucket.shapes)
        }

    def total(self, square: Tensor) -> Tensor:
        """A sum over this rank's parts -> that over all parts."""
        dist.all_reduce(square, group=self._group)
        return square


@paddle.no_grad()
def rows(tensor: Tensor, box: Box) -> Tensor:
    """A rank's part of a whole tensor."""
    return _rows(tensor, box).reshape(list(box.shape))


def _rows(tensor: Tensor, box: Box) -> Tensor:
    """A part, flat."""
    if not box.shape:
        return tensor.reshape([1])
    start = box.offset[0]
    return paddle.slice(tensor, [0], [start], [start + box.shape[0]]).reshape([-1])
