"""Several ranks on this host by Paddle's launcher: `mix-core train ... --devices 0,1`.

This process has the device's settings composed, starts the launcher, repeats what the first rank says, and
when a rank fails says which one and why. It imports no paddle.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mix_core.device import launch as device_launch
from mix_core.device import simulate
from mix_core.device.explanation import explain_device
from mix_core.device.failures import DeviceFailedError
from mix_core.device.ranks import Job
from mix_core.device.values import Workload
from mix_core.errors import EXIT_INTERRUPTED, ConfigError, MixError, OtherRankError, RunFailedError
from mix_core.training import checkpoint, record
from mix_core.training.agreement import identity
from mix_core.training.layout import layout_of
from mix_core.training.meeting import LIMIT_VARIABLE, Host, meet, time_limit
from mix_core.training.run_folder import LOGS, read_json

if TYPE_CHECKING:
    from mix_core.config import RunConfig

LOG_VARIABLE = "PADDLE_LOG_DIR"
"""The launcher's word to each rank about where its log is."""
POLL_S = 0.2
_NAMES_RANK = re.compile(r"\brank (\d+) \(process")
_FAILED = re.compile(r"Container rank (\d+) status failed")


@dataclass(frozen=True)
class Launch:
    """Which ranks to start here, and what they are part of."""

    devices: tuple[int, ...]
    nnodes: int = 1
    node_rank: int | None = None
    master: str | None = None
    max_restarts: int = 0

    @property
    def first_rank(self) -> int:
        """Of this host; all hosts have as many ranks."""
        return (self.node_rank or 0) * len(self.devices)


@dataclass(frozen=True)
class _Failure:
    """What ended the ranks, in one line, and the exit code that it stands for."""

    text: str
    code: int


def parse_launch(options: Mapping[str, str]) -> Launch:
    """Read the options. Raises ConfigError for what they cannot mean."""
    written = options.get("devices", "")
    devices = tuple(int(part) for part in written.split(",") if part.strip().isdigit())
    if not devices or len(set(devices)) != len(written.split(",")):
        raise ConfigError(f"--devices is {written!r}; expected indices, each once, as 0,1")
    nnodes, node_rank = _count(options, "nnodes", 1, 1), _count(options, "node_rank", None, 0)
    master = options.get("master")
    if nnodes > 1 and (master is None or node_rank is None):
        raise ConfigError(f"--nnodes {nnodes} needs --master HOST:PORT and this host's --node_rank")
    if node_rank is not None and node_rank >= nnodes:
        raise ConfigError(f"--node_rank {node_rank} is none of the {nnodes} hosts; they count from 0")
    if master is not None and not re.fullmatch(r"[^:\s]+:\d+", master):
        raise ConfigError(f"--master is {master!r}; expected HOST:PORT")
    return Launch(devices, nnodes, node_rank, master, _count(options, "max_restarts", 0, 0))


def _count(options: Mapping[str, str], name: str, default: Any, least: int) -> Any:
    text = options.get(name)
    if text is None:
        return default
    if not text.isdigit() or int(text) < least:
        raise ConfigError(f"--{name} is {text!r}; expected a whole number from {least} on")
    return int(text)


def launch(asked: Launch, config: RunConfig, *, device_name: str | None, command: Sequence[str]) -> None:
    """Run the ranks to their end, from the last checkpoint again where a rank died and restarts are left.

    Args:
        command: the words that started this process; the ranks get them less the options of the launcher.
    Raises:
        MixError: a rank's error, once, with the rank and its log.
        SystemExit: with 130, after a signal.
    """
    if config.output_dir is None:
        raise ConfigError("output_dir is missing; give the folder that the run may fill")
    words = _without(command[3:], [one.name for one in dataclasses.fields(Launch)])
    ranks = len(asked.devices) * asked.nnodes
    layout_of(config, ranks)
    workload = Workload(mode="train", dtype=config.dtype, world_size=ranks, simulate=config.simulate)
    workload = dataclasses.replace(workload, simulate=simulate.wanted(workload))
    environ, versions = _environment(device_name or config.device, workload, asked)
    own = Host(asked.node_rank or 0, asked.nnodes, len(asked.devices), versions)
    limit_s = time_limit(os.environ)
    logs = Path(config.output_dir).resolve() / LOGS
    if asked.nnodes > 1:
        logs = logs / f"node{asked.node_rank}"  # hosts may share the folder
    for left in range(asked.max_restarts, -1, -1):
        if asked.nnodes > 1 and asked.master is not None:
            there = meet(asked.master, own, limit_s)
            asked = dataclasses.replace(asked, master=there)
        failure = _run_once(asked, ["mix_core.train", *words], environ, logs, limit_s=limit_s)
        if failure is None:
            return
        kept = checkpoint.newest_whole(Path(config.output_dir))
        if left == 0 or failure.code != RunFailedError.exit_code:
            again = record.command_text(list(command), resume="auto")
            saved = f"; {kept.name} is the last whole checkpoint, go on with: {again}" if kept else ""
            error = RunFailedError(failure.text + saved)
            error.exit_code = failure.code
            raise error
        print(
            f"mix-core: {failure.text}; starting again from {kept.name if kept else 'the start'}",
            file=sys.stderr,
        )
        words = [*_without(words, ("resume", "overwrite_output_dir")), "--resume", "auto"]


def _without(words: Sequence[str], options: Any) -> list[str]:
    """The words without these options and their values."""
    found: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, joined, _ = word.removeprefix("--").partition("=")
        if name not in options:
            found.append(word)
        elif word.startswith("--") and not joined:
            rest.pop(0)
    return found


def _environment(
    device: str | None, workload: Workload, asked: Launch
) -> tuple[dict[str, str], dict[str, str]]:
    """The ranks' environment: the device's settings, with as many simulated devices as they need; and what
    has to be the same on all hosts."""
    user = dict(os.environ)
    if workload.simulate:
        user.setdefault(simulate.DEVICES, str(max(asked.devices) + 1))
    explained = explain_device(device, workload, needs_device=True, build=True, environ=user)
    if explained.choice.index_given:
        named = f"{explained.choice.name}:{explained.choice.index}"
        raise ConfigError(
            f"device {named} is one device, and --devices names them; leave the index out of the device"
        )
    name, several = explained.choice.name, explained.choice.candidate.profile.launcher_variable
    if several is None and not workload.simulate:
        raise ConfigError(
            f"--devices names accelerators, a rank for each, and the {name} is one device; leave --devices "
            "out, name another --device, or add --simulate to it; `python -m paddle.distributed.launch "
            f"--nproc_per_node {len(asked.devices)} python -m mix_core.train ...` starts ranks without any"
        )
    for line in explained.notes:
        print(f"mix-core: {line}", file=sys.stderr)
    label = explained.choice.candidate.plugin.entry.label
    versions = identity(label, simulate=workload.simulate)
    return device_launch.child_environment(explained, user), versions


def run_ranks(
    asked: Launch,
    device: str | None,
    workload: Workload,
    program: Sequence[str],
    logs: Path,
    *,
    repeats: bool = True,
) -> None:
    """Run a module with its arguments as ranks on this host, to their end.

    `repeats`: whether the first rank's words are printed. Raises MixError: a rank's, with the rank.
    """
    environ, _ = _environment(device, workload, asked)
    failure = _run_once(asked, program, environ, logs, repeats=repeats)
    if failure is not None:
        error = RunFailedError(failure.text)
        error.exit_code = failure.code
        raise error


def _run_once(
    asked: Launch,
    program: Sequence[str],
    environ: Mapping[str, str],
    logs: Path,
    *,
    limit_s: float | None = None,
    repeats: bool = True,
) -> _Failure | None:
    """Start the launcher and wait -> what the ranks failed of, None where they did not.

    `program`: a module and its arguments. `limit_s`: for the launchers of several hosts to find each other;
    they themselves wait without end.
    """
    logs.mkdir(parents=True, exist_ok=True)
    for old in (*logs.glob("workerlog.*"), *logs.glob("rank-*.json")):
        old.unlink()
    command = [
        sys.executable,
        "-m",
        "paddle.distributed.launch",
        "--devices",
        ",".join(map(str, asked.devices)),
    ]
    command += ["--log_dir", str(logs)]
    if asked.nnodes > 1:
        command += [
            "--nnodes",
            str(asked.nnodes),
            "--rank",
            str(asked.node_rank),
            "--master",
            str(asked.master),
        ]
    command += [sys.executable, "-u", "-m", *program]
    with (logs / "launcher.log").open("wb") as output:
        launcher = subprocess.Popen(
            command, env=dict(environ), stdout=output, stderr=output, start_new_session=True
        )
        within_s = limit_s if asked.nnodes > 1 else None
        asked_to_stop = _follow(launcher, logs / "workerlog.0", within_s, repeats=repeats)
    if launcher.returncode == 0:
        return None
    if asked_to_stop:
        raise SystemExit(EXIT_INTERRUPTED)
    if not (logs / "workerlog.0").is_file():
        late = (
            ""
            if limit_s is None or launcher.returncode != -9
            else f" in {limit_s:g} s ({LIMIT_VARIABLE} sets the limit)"
        )
        return _Failure(
            f"Paddle's launcher started no rank here{late}; the last line of its log "
            f"{logs / 'launcher.log'} is: {_last_line(logs / 'launcher.log')}",
            RunFailedError.exit_code,
        )
    return _failure(logs, range(asked.first_rank, asked.first_rank + len(asked.devices)))


def _follow(launcher: subprocess.Popen[bytes], log: Path, limit_s: float | None, *, repeats: bool) -> bool:
    """Repeat the first rank's words until the launcher ends -> whether a signal asked for that.

    `limit_s`: the launcher is ended where no rank has begun a log by then.
    """
    stops: list[int] = []
    until = None if limit_s is None else time.monotonic() + limit_s

    def stop(number: int, frame: Any) -> None:
        stops.append(number)
        with suppress(ProcessLookupError):
            os.killpg(launcher.pid, signal.SIGTERM if len(stops) < 2 else signal.SIGKILL)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    seen = 0
    try:
        while True:
            ended = launcher.poll() is not None
            if until is not None and time.monotonic() > until and not ended and not log.is_file():
                until = None
                os.killpg(launcher.pid, signal.SIGKILL)
            seen = _repeat(log, seen) if repeats else 0
            if ended:
                return bool(stops)
            time.sleep(POLL_S)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _repeat(log: Path, seen: int) -> int:
    """Print the whole lines after `seen` bytes, but for an error, which is told at the end -> bytes seen."""
    if not log.is_file():
        return seen
    with log.open("rb") as stream:
        stream.seek(seen)
        fresh, newline, _ = stream.read().rpartition(b"\n")
    for line in fresh.decode("utf-8", errors="replace").splitlines():
        if not line.startswith("error: "):
            print(line, flush=True)
    return seen + len(fresh + newline)


def note_end(job: Job, error: MixError) -> None:
    """Of a rank that fails: leave the reason where the process that started it looks."""
    folder = os.environ.get(LOG_VARIABLE)
    if job.ranks == 1 or not folder:
        return
    words = {"code": error.exit_code, "kind": type(error).__name__, "error": str(error)}
    (Path(folder) / f"rank-{job.rank}.json").write_text(json.dumps(words), encoding="utf-8")


def _failure(logs: Path, ranks: range) -> _Failure:
    """What ended the ranks of this host."""
    ends = {rank: read_json(logs / f"rank-{rank}.json") for rank in ranks}
    said = (logs / "launcher.log").read_text(encoding="utf-8", errors="replace")
    rank = _culprit(ends, [int(rank) + ranks.start for rank in _FAILED.findall(said)])
    log = logs / f"workerlog.{rank - ranks.start}"
    end = ends.get(rank)
    if rank not in ranks:
        host, place = divmod(rank, len(ranks))  # all hosts have as many ranks
        return _Failure(
            f"rank {rank} ended, on another host, node_rank {host}: {_naming(ends)}; its log is there, "
            f"{logs.parent / f'node{host}' / f'workerlog.{place}'}",
            RunFailedError.exit_code,
        )
    if end is not None:
        return _Failure(f"rank {rank} failed: {end['error']}; its log is {log}", end["code"])
    return _Failure(
        f"rank {rank} ended without saying why; the last line of its log {log} is: {_last_line(log)}",
        RunFailedError.exit_code,
    )


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "nothing")[:200]


def _naming(ends: Mapping[int, Any]) -> str:
    """The error of a rank that names another one."""
    said = (end["error"] for end in ends.values() if end is not None)
    return next((error for error in said if _NAMES_RANK.search(error)), "no rank here says more")


def _culprit(ends: Mapping[int, Any], named: Sequence[int]) -> int:
    """The rank that failed first, as far as can be told.

    A rank's own error comes before one of a device or of another rank; of those, one that names a rank which
    is silent points at it. `named` are the ranks that the launcher saw fail; it ends the others.
    """
    for rank, end in ends.items():
        if end is not None and end["kind"] not in (OtherRankError.__name__, DeviceFailedError.__name__):
            return rank
    for end in ends.values():
        found = _NAMES_RANK.search(end["error"]) if end is not None else None
        if found and ends.get(int(found[1])) is None:
            return int(found[1])
    silent = [rank for rank in named if ends.get(rank) is None]
    return next(iter([*silent, *named, *ends]))
