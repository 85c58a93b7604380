"""The order of a pipeline's step: messages are there in time, and blocking sends lock nothing."""

from __future__ import annotations

import pytest

from mix_core.training.pipeline.schedule import BACKWARD, FORWARD, RECEIVE, SEND, Action, schedule

LAYOUTS = [
    (stages, each, passes)
    for stages in (2, 3, 4, 8)
    for each in (1, 2, 3)
    for passes in (1, 2, 3, 4, 5, 8, 13)
]


def played(stages: int, each: int, plan: tuple[tuple[Action, ...], ...]) -> int:
    """Carry a schedule out with sends that return only when they are received -> passes done."""
    at, held = [0] * stages, [set() for _ in range(stages)]
    done = 0
    while any(place < len(actions) for place, actions in zip(at, plan)):
        moved = False
        for stage, actions in enumerate(plan):
            if at[stage] == len(actions):
                continue
            one = actions[at[stage]]
            if one.kind in (FORWARD, BACKWARD):
                back = one.kind == BACKWARD
                before = one.piece + (1 if back else -1)
                if 0 <= before < stages * each:
                    assert (before, one.number, back) in held[stage], f"{one} lacks what it computes from"
                if back:
                    assert (one.piece, one.number, False) in held[stage], f"{one} before its forward"
                held[stage].add((one.piece, one.number, back))
                done += 1
            elif one.kind == SEND:
                assert (one.piece, one.number, one.goes_back) in held[stage]
                to = (one.piece + (-1 if one.goes_back else 1)) % stages
                other = plan[to][at[to]] if at[to] < len(plan[to]) else None
                if other != Action(RECEIVE, one.piece, one.number, one.goes_back):
                    continue
                held[to].add((one.piece, one.number, one.goes_back))
                at[to] += 1
            else:
                continue  # its sender moves it on
            at[stage] += 1
            moved = True
        assert moved, f"all wait: {[a[i] if i < len(a) else None for i, a in zip(at, plan)]}"
    return done


@pytest.mark.parametrize(("stages", "each", "passes"), LAYOUTS)
def test_blocking_sends_lock_nothing(stages, each, passes):
    pieces = stages * each
    for frozen in (0, 1, pieces - 1):
        goes_back = tuple(piece >= frozen for piece in range(pieces))
        plan = schedule(stages, each, passes, goes_back)
        assert played(stages, each, plan) == passes * (2 * pieces - frozen)


def computing(stages: int, each: int, passes: int, stage: int) -> str:
    actions = schedule(stages, each, passes, (True,) * (stages * each))[stage]
    return " ".join(f"{one.kind[0]}{one.number}" for one in actions if one.kind in (FORWARD, BACKWARD))


def test_one_forward_one_backward():
    """PipeDream's figure: the first of four stages goes four passes ahead, the last one none."""
    assert computing(4, 1, 6, 0) == "f0 f1 f2 f3 b0 f4 b1 f5 b2 b3 b4 b5"
    assert computing(4, 1, 6, 3) == "f0 b0 f1 b1 f2 b2 f3 b3 f4 b4 f5 b5"


def most_ahead(actions: tuple[Action, ...]) -> int:
    ahead = most = 0
    for one in actions:
        ahead += {FORWARD: 1, BACKWARD: -1}.get(one.kind, 0)
        most = max(most, ahead)
    return most


def test_what_a_stage_keeps_does_not_grow_with_the_passes():
    for passes in (8, 32):
        plan = schedule(4, 1, passes, (True,) * 4)
        assert [most_ahead(actions) for actions in plan] == [4, 3, 2, 1]
        plan = schedule(4, 2, passes, (True,) * 8)
        assert [most_ahead(actions) for actions in plan] == [11, 9, 7, 5]


def test_nothing_is_sent_back_to_what_does_not_learn():
    plan = schedule(2, 1, 4, (False, True))
    assert {one.kind for one in plan[0]} == {FORWARD, SEND}
    assert not any(one.goes_back for actions in plan for one in actions)
