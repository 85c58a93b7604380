"""A step of a pipeline: passes go through the stages' pieces forward and back, in the order of schedule.py.

A stage keeps, for each pass that is under way, what a piece got and what it gave. Every stage has the same
batches, so that positions, places of pictures and labels need no message.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import paddle
from paddle import Tensor

from mix_core.training.pipeline.messages import Wire
from mix_core.training.pipeline.schedule import BACKWARD, FORWARD, RECEIVE, Action, schedule
from mix_core.training.pipeline.stage import Stage
from mix_core.training.throughput import COMMUNICATION, StepClock

Batch = dict[str, Any]
Around = Callable[[int, bool], AbstractContextManager[None]]
"""Of a piece, and whether it goes back."""


class Messages(Protocol):
    """Carries tensors between stages, or that there is none."""

    def send(self, tensor: Tensor | None, to: int) -> None:
        """To rank `to`, of all ranks."""

    def receive(self, sender: int) -> Tensor | None:
        """What `sender` sent; a leaf that gets a gradient where the sender wants one back."""


@dataclass(frozen=True)
class Moment:
    """When a stage did something, for pictures."""

    action: Action
    start: float
    """Of `time.perf_counter`."""
    end: float


class Pipeline:
    """Runs this rank's stage.

    Args:
        computing: makes the context of every forward and backward.
        messages: to and from the other stages; Paddle's send and recv, if nothing is given.
        trace: where to note what was done when; noting waits for the device (`clock.wait`).
    """

    def __init__(
        self,
        stage: Stage,
        computing: Callable[[], AbstractContextManager[None]],
        clock: StepClock | None = None,
        messages: Messages | None = None,
        trace: list[Moment] | None = None,
    ) -> None:
        self.stage, self._computing = stage, computing
        self._messages: Messages = messages or Wire(stage.group)
        self._clock, self.trace = clock or StepClock(), trace
        self._given: dict[tuple[int, int], Tensor | None] = {}
        """By piece and pass: what the piece got."""
        self._made: dict[tuple[int, int], Tensor | None] = {}
        """What it gave."""
        self._gradients: dict[tuple[int, int], Tensor | None] = {}
        """What came back for that, or what goes back further for what it got."""
        self.loss: Tensor | None = None
        """Of the passes since it was last None, summed; on the last stage."""

    def run(
        self,
        passes: Sequence[Batch | None],
        factor: float,
        begin: Callable[[Batch], None],
        around: Around = lambda piece, going_back: nullcontext(),
    ) -> tuple[Tensor | None, int]:
        """All passes of a step forward and back, the loss times `factor`.

        passes: None for one that other pipelines have and this one has not: its moments come, and nothing is
        computed or sent in them.
        begin: called with a pass's batch before a piece computes with it, forward or back: a block that
        computes again draws again.
        around: makes the context of whatever a piece does for a pass, forward and back, None included.
        -> the summed loss, on the last stage, and the labels of all passes.
        """
        self.loss = None
        for action in self.plan(len(passes)):
            started = time.perf_counter()
            batch = passes[action.number]
            if action.kind in (FORWARD, BACKWARD):
                with around(action.piece, action.kind == BACKWARD):
                    if batch is not None:
                        begin(batch)
                        self.act(action, batch, factor)
            elif batch is not None:
                self.act(action, batch, factor)
            if self.trace is not None:
                self._clock.wait_for_device()
                self.trace.append(Moment(action, started, time.perf_counter()))
        return self.loss, sum(self.stage.model.label_count(batch) for batch in passes if batch is not None)

    def plan(self, passes: int) -> tuple[Action, ...]:
        """What this stage does in a step of so many passes."""
        stage = self.stage
        each = len(stage.pieces) // stage.count
        return schedule(stage.count, each, passes, stage.goes_back)[stage.index]

    def act(self, action: Action, batch: Batch, factor: float) -> None:
        """Do one thing of the plan."""
        key = action.piece, action.number
        if action.kind == FORWARD:
            self._forward(key, batch)
        elif action.kind == BACKWARD:
            self._backward(key, factor)
        elif action.kind == RECEIVE:
            with self._clock.of(COMMUNICATION):
                self._receive(key, action.goes_back)
        else:
            self._send(key, action.goes_back)

    def _forward(self, key: tuple[int, int], batch: Batch) -> None:
        piece = self.stage.pieces[key[0]]
        with self._computing():
            made = self.stage.model.part(batch, piece, self._given.get(key))
        if piece.last:
            made, _ = made
            loss = made.detach()
            self.loss = loss if self.loss is None else self.loss + loss
        self._made[key] = made
        if not self.stage.goes_back[key[0]]:
            self._given.pop(key, None)

    def _backward(self, key: tuple[int, int], factor: float) -> None:
        made, given = self._made.pop(key), self._given.pop(key, None)
        gradient = self._gradients.pop(key, None)
        if made is not None and not made.stop_gradient:
            with self._computing():
                if self.stage.pieces[key[0]].last:
                    (made if factor == 1.0 else made * factor).backward()
                elif gradient is not None:
                    paddle.autograd.backward([made], [gradient])
        before = key[0] - 1, key[1]
        if before[0] >= 0 and self.stage.goes_back[before[0]]:
            self._gradients[before] = None if given is None else given.grad

    def _send(self, key: tuple[int, int], goes_back: bool) -> None:
        piece, number = key
        if goes_back:
            self._messages.send(self._gradients.pop((piece - 1, number)), self._rank_of(piece - 1))
            return
        made = self._made[key] if self.stage.goes_back[piece] else self._made.pop(key)
        self._messages.send(made, self._rank_of(piece + 1))

    def _receive(self, key: tuple[int, int], goes_back: bool) -> None:
        piece, number = key
        found = self._messages.receive(self._rank_of(piece))
        if goes_back:
            self._gradients[piece - 1, number] = found
        else:
            self._given[piece + 1, number] = found

    def _rank_of(self, piece: int) -> int:
        return self.stage.ranks[piece % self.stage.count]
