"""Paddle's engine on two simulated devices: collectives, data parallel, the old tracer, ranks that die."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.integration.simulated_fleet import (
    TYPES,
    Launched,
    assert_at_home,
    assert_equal_to_one_process,
    command,
    environment,
    launch,
    launch_words,
    run_alone,
    start_ranks,
)

STEPS, WEIGHTS = 3, 9
STATES_OF_A_WEIGHT = 4
"""The weight, its gradient, two moments."""

MOVED = {("npu", "bfloat16"): {"dropout"}}
"""What leaves a chip whose table lacks its kernel, by the chip and the dtype: nothing can keep it there."""


def shared_memory() -> set[str]:
    """Semaphores are no shared memory, and those of Python's multiprocessing come and go on any machine."""
    return {name for name in os.listdir("/dev/shm") if not name.startswith("sem.")}


@pytest.mark.parametrize(("device", "dtype"), [("npu", "float32"), ("npu", "bfloat16"), ("xpu", "bfloat16")])
def test_the_old_tracer_leaves_its_tensors_on_the_device(device: str, dtype: str, tmp_path: Path):
    seen = run_alone(tmp_path, device, "old_tracer.py", dtype)
    assert len(seen) == 8 and not [name for name, case in seen.items() if "error" in case]
    assert {name: case["distance"] for name, case in seen.items() if case["distance"] != 0.0} == {}
    elsewhere = {name for name, case in seen.items() if set(case["places"]) != {f"Place({TYPES[device]}:0)"}}
    assert elsewhere == MOVED.get((device, dtype), set())


@pytest.mark.parametrize("device", ["npu", "xpu"])
def test_data_parallel_equals_one_process(device: str, tmp_path: Path):
    first, second = ranks = launch(tmp_path, device, "fleet_data.py").ranks
    assert_equal_to_one_process(ranks, 1e-6)
    assert first["gradient_bits"] == second["gradient_bits"] and len(first["gradient_bits"]) == WEIGHTS
    assert_at_home(device, ranks, STEPS * WEIGHTS * STATES_OF_A_WEIGHT)


@pytest.fixture(scope="module", params=["npu", "xpu"])
def collectives(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """The device and what its two ranks saw of collectives.py."""
    folder = tmp_path_factory.mktemp("collectives")
    return request.param, launch(folder, request.param, "collectives.py")


def test_collectives_are_exact_in_every_dtype(collectives: tuple[str, Launched]):
    device, launched = collectives
    for rank, seen in enumerate(launched.ranks):
        cases = seen["cases"]
        assert len(cases) == 4 * (4 + 6) + 2 + 3
        assert {name: case["distance"] for name, case in cases.items() if case["distance"] != 0.0} == {}
        places = {case["place"] for name, case in cases.items() if name != "barrier"}
        assert places == {f"Place({TYPES[device]}:{rank})"}


def test_paddle_itself_knows_no_mean_on_custom_devices(collectives: tuple[str, Launched]):
    for seen in collectives[1].ranks:
        of_the_function, of_the_stream = seen["average"]
        assert "nccl_version" in of_the_function
        assert "Must be Min | Max | Prod | Sum" in of_the_stream


def test_a_sum_of_int64_is_refused_with_one_line_and_the_group_goes_on(collectives: tuple[str, Launched]):
    launched = collectives[1]
    for seen, log in zip(launched.ranks, launched.logs, strict=True):
        assert "CustomDevice error" in seen["int64"]["refused"]
        assert seen["after"]["distance"] == 0.0
        lines = [line for line in log.splitlines() if line.startswith("mix-sim: ")]
        assert lines == [
            "mix-sim: all_reduce of int64 is not supported by this chip; cast to float32 or int32"
        ]


DEAD = "rank:dead,rank=1,nth=3"


def test_a_dead_rank_is_named_by_the_other(tmp_path: Path):
    before = shared_memory()
    ranks = start_ranks(tmp_path, "npu", "rank_faults.py", MIX_SIM_FAULTS=DEAD)
    logs = [rank.communicate(timeout=400)[0] for rank in ranks]
    assert ranks[1].returncode == -signal.SIGKILL and ranks[0].returncode == 1
    dead = (tmp_path / "1.pid").read_text()
    assert f"mix-sim: rank 1 (process {dead}) ended during all_reduce of 16 bytes" in logs[0]
    assert logs[0].count("mix-sim: ") == 1
    waited = re.search(r"all_reduce 2 failed after ([\d.]+) s", logs[0])
    assert waited and float(waited[1]) < 5
    assert shared_memory() <= before


def test_the_launcher_ends_at_a_dead_rank(tmp_path: Path):
    """It looks once a second: it sees the dead rank first, or the other that has spoken and ended."""
    before = shared_memory()
    launched = launch(tmp_path, "npu", "rank_faults.py", fails=True, MIX_SIM_FAULTS=DEAD)
    assert time.time() - (tmp_path / "1.pid").stat().st_mtime < 60
    said = launched.done.stdout + launched.done.stderr
    seen_first = re.search(r"Container rank (\d) status failed .*code (-?\d+) log", said)
    assert seen_first, said
    if seen_first.groups() != ("1", "-9"):
        assert seen_first.groups() == ("0", "1")
        assert "mix-sim: rank 1 (process " in launched.logs[0]
    assert shared_memory() <= before


@pytest.mark.slow
def test_a_slow_rank_only_delays(tmp_path: Path):
    fault = "rank:slow,rank=1,ms=400"
    ranks = launch(tmp_path, "npu", "rank_faults.py", MIX_SIM_FAULTS=fault).ranks
    right = [[2.0 * number + 1.0] * 4 for number in range(6)]
    for seen in ranks:
        assert seen["values"] == right
        assert seen["seconds"] >= 6 * 0.4


@pytest.mark.slow
def test_a_wrong_sum_shows_in_the_values(tmp_path: Path):
    ranks = launch(tmp_path, "npu", "rank_faults.py", MIX_SIM_FAULTS="all_reduce:wrong,nth=2").ranks
    for seen in ranks:
        for number, values in enumerate(seen["values"]):
            right = [2.0 * number + 1.0] * 4
            assert values[:3] == right[:3]
            assert (values[3] != right[3]) == (number == 1)


@pytest.mark.slow
def test_killing_every_process_leaves_no_shared_memory(tmp_path: Path):
    before = shared_memory()
    words = launch_words(tmp_path, "rank_faults.py")
    running = subprocess.Popen(
        command("npu", *words),
        env=environment(tmp_path, "npu", ROUNDS="1000000"),
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    pids = [tmp_path / f"{rank}.pid" for rank in range(2)]
    try:
        for _ in itertools.takewhile(
            lambda _: not all(p.is_file() and p.read_text() for p in pids), range(600)
        ):
            assert running.poll() is None, "the ranks ended before they were killed"
            time.sleep(0.2)
        ranks = [int(path.read_text()) for path in pids]
    finally:
        for rank in pids:
            if rank.is_file():
                os.kill(int(rank.read_text()), signal.SIGKILL)
        running.kill()
        running.wait(timeout=30)
    ended_by = time.monotonic() + 10
    while (
        any(Path(f"/proc/{pid}/maps").exists() and alive(pid) for pid in ranks)
        and time.monotonic() < ended_by
    ):
        time.sleep(0.1)
    assert not [pid for pid in ranks if alive(pid)]
    assert shared_memory() <= before


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
