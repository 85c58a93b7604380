"""In which order the stages of a pipeline compute and talk: one forward, one backward, in pieces or not.

With one piece a stage it is 1F1B (Narayanan et al., "PipeDream: Generalized Pipeline Parallelism for DNN
Training", 2019): a stage goes back as soon as it can, and is ahead of that by no more passes than there are
stages after it. With several pieces a stage it is the interleaved form (Narayanan et al., "Efficient
Large-Scale Language Model Training", 2021, on Megatron-LM), which takes passes in groups of as many as there
are stages; here the last group may be smaller.

The order is found by playing the step through, all stages at once, with equal times. The moments at which
messages are ready then put all messages in one order, and every stage sends and receives its own in that
order. So sends that return only when they are received lock nothing: both stages of the earliest message that
is not through come to it without waiting for a later one. Nothing here imports paddle.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

Kind = Literal["forward", "backward", "send", "receive"]
FORWARD: Literal["forward"] = "forward"
BACKWARD: Literal["backward"] = "backward"
SEND: Literal["send"] = "send"
RECEIVE: Literal["receive"] = "receive"
_TIMES = {FORWARD: 1, BACKWARD: 2}
_AFTER_MESSAGES = 1 << 30


@dataclass(frozen=True)
class Action:
    """One thing that a stage does for one pass."""

    kind: Kind
    piece: int
    """Of the whole chain, from 0. A message belongs to the piece that made it."""
    number: int
    """Of the pass in the step, from 0."""
    goes_back: bool = False
    """Of a message: whether it is a gradient, on its way to the piece before."""


@dataclass
class _Stage:
    """What a stage has done and may do while the step is played."""

    forwards: list[tuple[int, int]]
    backwards: list[tuple[int, int]]
    """(piece, pass), in the order in which the stage has to take them."""
    limit: int
    """Forwards ahead of the backwards."""
    ahead: int = 0
    busy_until: int = 0
    actions: list[tuple[int, int, Action]] = field(default_factory=list)
    """(moment, order among those of one moment, what begins then)."""


@lru_cache(maxsize=64)
def schedule(
    stages: int, pieces_per_stage: int, passes: int, goes_back: tuple[bool, ...]
) -> tuple[tuple[Action, ...], ...]:
    """What each stage does in a step, computing and messages, in order.

    Args:
        goes_back: for each piece, whether anything learns in it or before it. Nothing goes back to the
            others: they have no backward, and no gradient is sent to them.
    """
    plan = [_stage(stage, stages, pieces_per_stage, passes) for stage in range(stages)]
    _play(plan, stages * pieces_per_stage, passes)

    def happens(action: Action) -> bool:
        if action.kind == BACKWARD:
            return goes_back[action.piece]
        return not action.goes_back or goes_back[action.piece - 1]

    # messages come before what is computed from their moment on, and after what ended then
    return tuple(
        tuple(action for _, _, action in sorted(stage.actions, key=_moment) if happens(action))
        for stage in plan
    )


def _moment(entry: tuple[int, int, Action]) -> tuple[int, int]:
    return entry[:2]


def _stage(stage: int, stages: int, each: int, passes: int) -> _Stage:
    forwards: list[tuple[int, int]] = []
    backwards: list[tuple[int, int]] = []
    for first in range(0, passes, stages):
        group = range(first, min(first + stages, passes))
        for chunk in range(each):
            forwards += [(chunk * stages + stage, number) for number in group]
        for chunk in reversed(range(each)):
            backwards += [(chunk * stages + stage, number) for number in group]
    limit = stages - stage if each == 1 else 2 * (stages - stage - 1) + (each - 1) * stages + 1
    return _Stage(forwards, backwards, limit)


def _play(plan: list[_Stage], pieces: int, passes: int) -> None:
    """Have all stages do all that they have to, and note when."""
    ready = {(FORWARD, 0, number): 0 for number in range(passes)}
    now, messages, left = 0, 0, sum(2 * len(stage.forwards) for stage in plan)
    while left:
        started = False
        for place, stage in enumerate(plan):
            kind = _next(stage, ready, now)
            if kind is None:
                continue
            piece, number = (stage.forwards if kind == FORWARD else stage.backwards).pop(0)
            stage.ahead += 1 if kind == FORWARD else -1
            stage.busy_until = end = now + _TIMES[kind]
            stage.actions.append((now, _AFTER_MESSAGES, Action(kind, piece, number)))
            left, started = left - 1, True
            to = piece + 1 if kind == FORWARD else piece - 1
            if to == pieces:
                ready[BACKWARD, piece, number] = end
            elif to >= 0:
                ready[kind, to, number] = end
                for verb, at in (SEND, place), (RECEIVE, to % len(plan)):
                    action = Action(verb, piece, number, goes_back=kind == BACKWARD)
                    plan[at].actions.append((end, messages, action))
                messages += 1
        if started:
            continue
        later = [stage.busy_until for stage in plan if stage.busy_until > now]
        now = min(later, default=now)
        if not later:  # all wait for a pass that none may begin: a last group smaller than the others
            for stage in plan:
                stage.limit += 1


def _next(
    stage: _Stage, ready: dict[tuple[str, int, int], int], now: int
) -> Literal["forward", "backward"] | None:
    """What a stage does now: it goes back where it can, and else forward as far as it may."""

    def can(kind: str, waiting: list[tuple[int, int]]) -> bool:
        return bool(waiting) and ready.get((kind, *waiting[0]), now + 1) <= now

    if stage.busy_until > now:
        return None
    if can(BACKWARD, stage.backwards):
        return BACKWARD
    if stage.ahead < stage.limit and can(FORWARD, stage.forwards):
        return FORWARD
    return None
