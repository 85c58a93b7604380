"""What a rank sees when a peer dies, stays away or calls something else; and that nothing is left behind."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from tests.unit.sim import collective_group as groups
from tests.unit.sim import collective_ranks as ranks_of
from tests.unit.sim.test_collective import TRANSPORTS, transports


@transports()
@pytest.mark.parametrize("operation", ["all_reduce", "recv"])
def test_a_dead_peer_is_named_within_seconds(transport: str, operation: str) -> None:
    with groups.started(ranks_of.dies, 3, operation, env=TRANSPORTS[transport]) as group:
        *_, pid = [rank.answer() for rank in group]
        for rank in group:
            rank.connection.send("go on")
        answers = [rank.answer() for rank in group[:2]]
    for first, seconds, again in answers:
        # on a rank that the other was quicker to tell, "rank 1 gave up: " comes first
        who = rf"(rank [01] gave up: )?rank 2 \(process {pid}( on 127.0.0.1)?\)"
        assert re.fullmatch(f"{who} ended during {operation} of 4.0 MiB", first)
        assert seconds < 3
        assert again == first, "a communicator that failed stays failed"


@transports()
def test_a_peer_killed_from_outside_in_the_middle_of_a_collective(transport: str) -> None:
    with groups.started(ranks_of.killed_within, 2, env=TRANSPORTS[transport]) as group:
        pids = [rank.answer() for rank in group]
        os.kill(pids[1], signal.SIGKILL)
        assert f"RuntimeError: rank 1 (process {pids[1]}" in group[0].answer(5.0)


@transports()
def test_a_silent_peer_is_named_at_the_limit(transport: str) -> None:
    *waiting, (late, _) = groups.run(ranks_of.silent, 3, env=TRANSPORTS[transport])
    for text, seconds in waiting:
        assert re.search(r"rank 2 \(process \d+.*\) did not come to all_reduce of 4.0 MiB within 0.4 s", text)
        assert 0.3 < seconds < 1.4
    assert re.match(r"rank [01] gave up: rank 2 ", late), "who comes late learns why nobody waits"


@transports()
def test_ranks_that_call_different_things_all_learn_it(transport: str) -> None:
    reduce = "rank 0 calls all_reduce of 100 float32 (sum), rank 2 calls all_reduce of"
    expected = {
        "operation": reduce.removesuffix("all_reduce of") + "broadcast of 100 float32 with root 0",
        "count": f"{reduce} 99 float32 (sum)",
        "dtype": f"{reduce} 100 int32 (sum)",
        "reduction": f"{reduce} 100 float32 (max)",
        "root": "rank 0 calls broadcast of 100 float32 with root 0, "
        "rank 2 calls broadcast of 100 float32 with root 1",
    }
    expected = {name: f"ranks disagree at collective 1: {said};" for name, said in expected.items()}
    expected["all_to_all"] = r"all_to_all: 9 float32 are expected from rank 0, which sent 10 float32"
    expected["message"] = r"recv: 50 float32 are expected from rank 0, which sent 100 float32"
    for texts in groups.run(ranks_of.mismatched, 3, env=TRANSPORTS[transport]):
        assert list(texts) == list(expected)
        for name, text in texts.items():
            # a rank that is still waiting hears it from the first that saw it
            assert re.match(r"(rank [0-2] gave up: )?" + re.escape(expected[name]), text), name


@transports()
def test_a_rank_that_left_is_named_and_its_messages_arrive(transport: str) -> None:
    (arrived, text), _ = groups.run(ranks_of.leaves, 2, env=TRANSPORTS[transport])
    assert arrived
    assert re.match(r"rank 1 \(process \d+.*\) has left the group, and all_reduce of 4.0 MiB needs it", text)


def test_a_reduction_without_meaning_is_refused() -> None:
    assert "reduction max is not defined for complex64" in groups.run(ranks_of.refused, 1)[0]


@transports()
def test_a_rank_that_does_not_join_is_named(transport: str) -> None:
    with groups.started(ranks_of.joins, 3, 0.5, env=TRANSPORTS[transport]) as group:
        for rank in group[:2]:
            assert rank.answer(5.0).endswith(
                "rank 2 did not come to the start of the group within 0.5 s (MIX_SIM_TIMEOUT sets the limit)"
            )


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("MIX_SIM_TIMEOUT", "soon", 'MIX_SIM_TIMEOUT is "soon"; a number of seconds above 0 is needed'),
        ("MIX_SIM_TRANSPORT", "pigeon", 'MIX_SIM_TRANSPORT is "pigeon"; known are tcp and shared'),
    ],
)
def test_variables_that_make_no_sense(variable: str, value: str, said: str) -> None:
    with groups.started(ranks_of.joins_by_default, 1, env={variable: value}) as group:
        assert said in group[0].answer()


def test_an_address_that_makes_no_sense() -> None:
    with (
        pytest.raises(RuntimeError, match='MIX_SIM_HOST is "no such host", which is no IPv4 address'),
        groups.started(ranks_of.joins_by_default, 1, env={"MIX_SIM_HOST": "no such host"}),
    ):
        raise AssertionError("an id was made")


def holders(inode: tuple[int, int]) -> list[str]:
    """Open files of any process that are this one."""
    found = []
    for path in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            about = path.stat()
        except OSError:
            continue
        if (about.st_dev, about.st_ino) == inode:
            found.append(str(path))
    return found


def test_nothing_is_left_after_sigkill_of_every_rank() -> None:
    named = set(os.listdir("/dev/shm"))
    with groups.started(ranks_of.killed_within, 2) as group:
        pids = [rank.answer() for rank in group]
        memory = {
            (about.st_dev, about.st_ino)
            for path in Path(f"/proc/{pids[0]}/fd").iterdir()
            if "memfd:mix-sim" in os.readlink(path)
            for about in [path.stat()]
        }
        assert len(memory) == 1
        (inode,) = memory
        assert {Path(path).parts[2] for path in holders(inode)} == {str(pid) for pid in pids}
        assert not [name for name in set(os.listdir("/dev/shm")) - named if "mix" in name]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for rank in group:
            rank.process.join()
        assert holders(inode) == []
    assert not [name for name in set(os.listdir("/dev/shm")) - named if "mix" in name]
