"""Programs of tests/programs on two simulated devices, started as a user starts them."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.environment import clean_environment, with_plugins

PROGRAMS = Path(__file__).parents[1] / "programs"
TYPES = {"npu": "npu", "xpu": "sim_xpu", "gpu": "sim_gpu"}
"""Device names and the Paddle device types that they bear when simulated."""


@dataclass
class Launched:
    """What the launcher and its ranks said, and what each rank wrote."""

    done: subprocess.CompletedProcess[str]
    logs: list[str]
    ranks: list[dict[str, Any]]


def command(device: str, *words: str | Path) -> list[str]:
    """`mix-core run` of a Python program on a simulated device."""
    run = [sys.executable, "-m", "mix_core.cli.main", "run", "--device", device, "--simulate", "--"]
    return [*run, sys.executable, *map(str, words)]


def environment(folder: Path, device: str, **variables: str) -> dict[str, str]:
    environ = with_plugins(clean_environment(), [f"mix_device_{device}"], folder / "site")
    return environ | {"MIX_SIM_DEVICES": "2", "MIX_SIM_TIMEOUT": "30"} | variables


def launch_words(folder: Path, program: str, *arguments: str, count: int = 2) -> list[str | Path]:
    """Paddle's own launcher with `count` ranks."""
    devices = ",".join(map(str, range(count)))
    launcher = ["-m", "paddle.distributed.launch", "--devices", devices, "--log_dir", folder / "log"]
    return [*launcher, PROGRAMS / program, folder, *arguments]


def launch(
    folder: Path,
    device: str,
    program: str,
    *arguments: str,
    count: int = 2,
    fails: bool = False,
    **variables: str,
) -> Launched:
    """Run a program by `count` ranks to its end; what they write is in `ranks`, none where it `fails`."""
    done = subprocess.run(
        command(device, *launch_words(folder, program, *arguments, count=count)),
        env=environment(folder, device, **({"MIX_SIM_DEVICES": str(count)} | variables)),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=400,  # the simulator is built at first use
    )
    logs = [(folder / "log" / f"workerlog.{rank}").read_text() for rank in range(count)]
    assert (done.returncode != 0) == fails, done.stdout + done.stderr + "".join(logs)
    ranks = [] if fails else [json.loads((folder / f"{rank}.json").read_text()) for rank in range(count)]
    return Launched(done, logs, ranks)


def start_ranks(folder: Path, device: str, program: str, **variables: str) -> list[subprocess.Popen[str]]:
    """Start a program by two ranks that no launcher looks after; each writes to its own pipe."""
    with socket.socket() as first, socket.socket() as second:
        for listening in (first, second):
            listening.bind(("127.0.0.1", 0))
        endpoints = [f"127.0.0.1:{listening.getsockname()[1]}" for listening in (first, second)]
    running = []
    for rank in range(2):
        of_the_rank = {
            "PADDLE_TRAINER_ID": str(rank),
            "PADDLE_TRAINERS_NUM": "2",
            "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints),
            "PADDLE_CURRENT_ENDPOINT": endpoints[rank],
            f"FLAGS_selected_{TYPES[device]}s": str(rank),
            "PADDLE_DISTRI_BACKEND": "xccl",
            "PADDLE_XCCL_BACKEND": TYPES[device],
        }
        words = command(device, PROGRAMS / program, folder)
        running.append(
            subprocess.Popen(
                words,
                env=environment(folder, device, **of_the_rank, **variables),
                cwd=folder,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return running


def run_alone(folder: Path, device: str, program: str, *arguments: str, **variables: str) -> dict[str, Any]:
    """Run a program in one process -> what it wrote."""
    done = subprocess.run(
        command(device, PROGRAMS / program, folder, *arguments),
        env=environment(folder, device, **variables),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "0.json").read_text())


def assert_equal_to_one_process(ranks: list[dict[str, Any]], limit: float) -> None:
    """Losses, first gradients and last weights of a run differ from one process's by no more than `limit`."""
    for seen in ranks:
        assert seen["losses"] == pytest.approx(seen["alone"], abs=limit)
        for kind in ("gradients", "weights"):
            # stages 2 and 3 of sharding keep no gradients to look at
            assert max(seen.get(kind, {"none": 0.0}).values()) < limit, (kind, seen[kind])
        assert len(seen["weights"]) > 3


def assert_at_home(device: str, ranks: list[dict[str, Any]], least: int) -> None:
    """At least so many parameters, gradients and states were looked at, and none had left its device."""
    for rank, seen in enumerate(ranks):
        assert seen["device"] == f"Place({TYPES[device]}:{rank})"
        assert seen["looked"] >= least, f"rank {rank} looked at {seen['looked']} tensors"
        assert seen["strays"] == []
