"""Stage 3 of sharding: parameters are in parts, and whole only while a block computes with them.

A block is what `models/common/recompute.py` computes again going back; its parameters are gathered before it
computes, forward or backward, and released after. What is in no block (embedding, head, norms, projector) is
gathered for a whole step. Zhao et al., "PyTorch FSDP", 2023, of which the order of messages here is a strict
form: in each pass every rank goes through all blocks, forward and back, and a rank that does not compute with
one (no picture, fewer passes) gathers and sums all the same. A stage of a pipeline goes through the blocks of
one piece at a time, forward for one pass and back for another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import paddle
from paddle import Tensor

from mix_core.errors import RunFailedError
from mix_core.models.common.recompute import AROUND
from mix_core.training.sharding import Bucket, Sharding, buckets_of


def blocks_of(model: Any) -> list[tuple[str, Any]]:
    """What is computed again going back, by name, in forward order: the language model comes last."""
    towers: list[tuple[str, Any]] = []
    decoder: list[tuple[str, Any]] = []
    for owner_name, owner in model.named_sublayers(include_self=True):
        if not hasattr(owner, "recompute"):
            continue
        for name, child in owner.named_children():
            if isinstance(child, paddle.nn.LayerList):
                inside = ".".join(part for part in (owner_name, name) if part)
                found = decoder if owner is getattr(model, "model", None) else towers
                found += [(f"{inside}.{number}", block) for number, block in enumerate(child)]
    return towers + decoder


class Gathering:
    """Releases and gathers the parameters of a model that learn.

    Args:
        local: this rank's parts of them, by name.
        send: sums the gradients of some parameters over ranks and forgets them.
        piece_of: of the parameter of a name, which of this stage's pieces it belongs to.
    """

    def __init__(
        self,
        model: Any,
        learning: Mapping[str, Tensor],
        sharding: Sharding,
        local: Mapping[str, Tensor],
        send: Callable[[Bucket], None],
        piece_of: Callable[[str], int] = lambda name: 0,
    ) -> None:
        model.recompute = True
        self.sharding, self.local, self._send, self._learning = sharding, local, send, learning
        self.blocks: list[list[Bucket]] = []
        self._spans: dict[int, range] = {}
        """By piece: its blocks, which follow each other."""
        left = {name: list(parameter.shape) for name, parameter in learning.items()}
        for name, block in blocks_of(model):
            own = {one: left.pop(one) for one in list(left) if one.startswith(f"{name}.")}
            if own:
                number, piece = len(self.blocks), piece_of(next(iter(own)))
                setattr(block, AROUND, self._around(number))
                self.blocks.append(buckets_of(own))
                self._spans[piece] = range(self._spans.get(piece, range(number, number)).start, number + 1)
        self.rest = buckets_of(left) if left else []
        self.is_whole = True
        self._rest_is_whole = True
        self.begin()

    def release(self) -> None:
        """Keep parts alone."""
        for buckets in (*self.blocks, self.rest):
            self._drop(buckets)
        self.is_whole = self._rest_is_whole = False

    def gather(self) -> None:
        """Have every parameter whole."""
        for buckets in (*self.blocks, self.rest):
            self._fetch(buckets)
        self.is_whole = self._rest_is_whole = True

    def begin_step(self) -> None:
        if not self._rest_is_whole:
            self._fetch(self.rest)
            self._rest_is_whole = True

    def end_step(self) -> None:
        if self._rest_is_whole and not self.is_whole:
            self._drop(self.rest)
            self._rest_is_whole = False

    def begin(self, piece: int = 0, going_back: bool = False) -> None:
        """A pass begins with a piece: forward, or back, which without a pipeline follows by itself."""
        span = self._spans.get(piece, range(0))
        self._span = span
        self._forward = span.stop if going_back else span.start
        """The block that comes next, going forward."""
        self._backward = span.stop
        """The block after the one that comes next, going back."""

    def end(self, going_back: bool = True) -> None:
        """Go through what this rank had nothing to compute with, of the piece that began."""
        self._finish_forward()
        if going_back:
            self._back_to(self._span.start - 1)

    def send_rest(self) -> None:
        """Sum the gradients of what is in no block."""
        for bucket in self.rest:
            self._send(bucket)

    def _around(self, number: int) -> Callable[[bool], Any]:
        @contextmanager
        def around(going_back: bool) -> Iterator[None]:
            if self.is_whole:
                raise RunFailedError("a block computes before parameters are in parts")
            if going_back:
                self._finish_forward()
                self._back_to(number)
                self._enter(number, number in self._span and self._backward == number + 1)
                yield
                self._leave(number)
                self._backward = number
            else:
                for passed in range(self._forward, number):
                    self._pass_by(passed)
                self._enter(number, number in self._span and self._forward <= number)
                yield
                self._drop(self.blocks[number])
                self._forward = number + 1

        return around

    def _enter(self, number: int, in_order: bool) -> None:
        if not in_order:
            raise RunFailedError(
                f"sharding stage3 goes through each block once in a pass, and block {number} comes again or "
                "out of its order; give stage2"
            )
        self._fetch(self.blocks[number])

    def _leave(self, number: int) -> None:
        for bucket in self.blocks[number]:
            self._send(bucket)
        self._drop(self.blocks[number])

    def _finish_forward(self) -> None:
        for number in range(self._forward, self._span.stop):
            self._pass_by(number)
        self._forward = self._span.stop

    def _back_to(self, number: int) -> None:
        for passed in range(self._backward - 1, number, -1):
            self._fetch(self.blocks[passed])
            self._leave(passed)
            self._backward = passed

    def _pass_by(self, number: int) -> None:
        self._fetch(self.blocks[number])
        self._drop(self.blocks[number])

    @paddle.no_grad()
    def _fetch(self, buckets: list[Bucket]) -> None:
        for bucket in buckets:
            for name, whole in self.sharding.gather(bucket, self.local).items():
                whole._share_buffer_to(self._learning[name])

    def _drop(self, buckets: list[Bucket]) -> None:
        for bucket in buckets:
            for name in bucket.names:
                self._learning[name]._clear_data()
