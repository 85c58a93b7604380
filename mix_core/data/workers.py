"""The data workers as the training process sees them: start, give rows, collect samples, notice deaths."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from collections import deque
from typing import Any

import mix_core.errors
from mix_core.data.shared_memory import Channel
from mix_core.data.worker import SENT, Failure, MakeProcessor, Sample, receive_answer
from mix_core.errors import MixError, RunFailedError

CHUNK = 8
"""Rows in one task."""
TASKS_AHEAD = 2
"""Tasks that a worker holds: one in hand, one waiting."""
CLOSE_TIMEOUT_S = 5.0

_START = "import sys; sys.path[:] = {path!r}; from mix_core.data.worker import SENT, main; main({descriptor})"


class WorkerTraceback(Exception):
    """Cause of an exception that a worker sent: its traceback as text."""

    def __str__(self) -> str:
        return f"\n\n{self.args[0]}"


def exception_of(failure: Failure) -> Exception:
    """The exception to raise here for one that happened in a worker."""
    kind = getattr(mix_core.errors, failure.kind, None) if failure.deliberate else None
    if isinstance(kind, type) and issubclass(kind, MixError):
        error: Exception = kind(failure.message)
    else:
        error = RunFailedError(
            f"a data worker failed: {failure.kind}: {failure.message}; dataloader_num_workers 0 runs "
            "the same in this process"
        )
    error.__cause__ = WorkerTraceback(failure.trace)
    return error


class _Worker:
    """One process and the tasks that it holds, oldest first."""

    def __init__(self, make_processor: MakeProcessor, options: dict[str, Any]) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            program = _START.format(
                path=[os.path.abspath(part) for part in sys.path], descriptor=theirs.fileno()
            )
            self.process = subprocess.Popen(
                [sys.executable, "-c", program],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
            )
        self.channel = Channel(ours)
        self.tasks: deque[list[int]] = deque()
        self.ready = False
        self.channel.send((make_processor, options))


class WorkerPool:
    """`count` workers. Tasks go to the least busy one; results come in any order, by row number."""

    def __init__(self, count: int, make_processor: MakeProcessor, options: dict[str, Any]) -> None:
        self._workers = [_Worker(make_processor, options) for _ in range(count)]

    @property
    def has_room(self) -> bool:
        return any(len(worker.tasks) < TASKS_AHEAD for worker in self._workers)

    def submit(self, numbers: list[int], rows: list[dict[str, Any]]) -> None:
        """Give one task to the least busy worker. `numbers` name the rows in what `collect` returns."""
        worker = min(self._workers, key=lambda worker: len(worker.tasks))
        worker.tasks.append(numbers)
        try:
            worker.channel.send([{key: row[key] for key in SENT if key in row} for row in rows])
        except (BrokenPipeError, ConnectionResetError):
            if not worker.ready:
                self._receive(worker)  # raises what kept it from starting
            raise self._death(worker) from None

    def collect(self, *, wait: bool) -> list[tuple[int, Sample | Failure | None]]:
        """What has arrived; with `wait`, at least one result. Raises RunFailedError if a worker died."""
        found: list[tuple[int, Sample | Failure | None]] = []
        while not found:
            readable, _, _ = select.select(self._workers_by_channel(), [], [], None if wait else 0.0)
            for worker in self._workers:
                if worker.channel in readable:
                    found += self._receive(worker)
            if not wait:
                break
        return found

    def _workers_by_channel(self) -> list[Channel]:
        return [worker.channel for worker in self._workers]

    def _receive(self, worker: _Worker) -> list[tuple[int, Sample | Failure | None]]:
        try:
            if worker.ready:
                answers = receive_answer(worker.channel)  # first: a worker without a task may have died, too
                return list(zip(worker.tasks.popleft(), answers))
            failure, _ = worker.channel.receive()
        except (EOFError, ConnectionResetError):
            raise self._death(worker) from None
        if failure is not None:
            raise exception_of(failure)
        worker.ready = True
        return []

    def _death(self, worker: _Worker) -> RunFailedError:
        worker.channel.close()
        code = worker.process.wait()
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
        cause = "; out of memory is the usual cause, try fewer workers" if code == -signal.SIGKILL else ""
        return RunFailedError(f"data worker {worker.process.pid} {how}{cause} (dataloader_num_workers)")

    def close(self) -> None:
        """End the workers; may be called twice."""
        for worker in self._workers:
            worker.channel.close()
        for worker in self._workers:
            try:
                worker.process.wait(CLOSE_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
        self._workers = []
