"""`mix-core infer --devices 0,1 --tensor_parallel_degree 2`: ranks that share every layer answer together.

The command starts Paddle's launcher with itself, one rank on each device. All ranks do the same; the first
one leaves the result in the logs' folder, where this process looks for it, and writes files. The others write
their answers to a batch beside the logs: they go on from the same rows as the first.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from mix_core.device import simulate
from mix_core.device.ranks import Job, job_of
from mix_core.device.values import Workload
from mix_core.errors import ConfigError, MixError
from mix_core.training.launch import LOG_VARIABLE, Launch, note_end, parse_launch, run_ranks

RESULT = "result.txt"
"""What the command prints, in the logs' folder."""


def asked_for(given: dict[str, Any]) -> Launch | None:
    """The devices whose ranks are to be started; None where the command is to answer itself, or is a rank.

    Raises:
        ConfigError: devices and degree contradict each other.
    """
    degree, devices = max(1, given["tensor_parallel_degree"]), given["devices"]
    if job_of(os.environ).ranks > 1:
        return None
    if devices is None:
        if degree > 1:
            raise ConfigError(
                f"--tensor_parallel_degree is {degree} and no devices are named; give --devices with as many"
            )
        return None
    launch = parse_launch({"devices": devices})
    if len(launch.devices) != degree:
        raise ConfigError(
            f"--devices names {len(launch.devices)} devices and --tensor_parallel_degree is {degree}; "
            "answering shares every layer among all devices, so give as many"
        )
    return None if degree == 1 else launch


def answered_on_ranks(launch: Launch, given: dict[str, Any]) -> str:
    """Start the ranks with this command's words -> what to print. Raises MixError."""
    workload = Workload(mode="infer", world_size=len(launch.devices), simulate=given["simulate"])
    workload = replace(workload, simulate=simulate.wanted(workload))
    with tempfile.TemporaryDirectory(prefix="mix-core-infer-") as folder:
        logs = Path(folder)
        if given["batch"] is not None and given["out"] is not None and Path(given["out"]).is_file():
            for rank in range(1, len(launch.devices)):
                shutil.copyfile(given["out"], _answers(logs, rank))
        program = ["mix_core.cli.main", *sys.argv[1:]]
        run_ranks(launch, given["device"], workload, program, logs, repeats=False)
        return (logs / RESULT).read_text(encoding="utf-8")


def as_rank(job: Job, given: dict[str, Any]) -> dict[str, Any]:
    """The options of one rank: only the first one writes files of the user's."""
    if job.leads or job.ranks == 1:
        return given
    mine = given | {"draw": None, "output_dir": None, "visual": None}
    return mine | ({"out": str(_answers(_logs(), job.rank))} if given["batch"] is not None else {})


def leave(job: Job, text: str) -> None:
    """Of a rank: hand the result to the process that started it."""
    if job.leads:
        (_logs() / RESULT).write_text(text, encoding="utf-8")


def tell(job: Job, error: MixError) -> None:
    """Of a rank that fails."""
    note_end(job, error)


def _logs() -> Path:
    return Path(os.environ[LOG_VARIABLE])


def _answers(logs: Path, rank: int) -> Path:
    return logs / f"answers.rank{rank}.jsonl"
