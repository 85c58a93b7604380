"""The conformance command on the faulty device, and many runs of it beside the other tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from fnmatch import fnmatchcase
from pathlib import Path
from threading import Thread
from typing import Any, Generic, TypeVar

from tests.conformance_meta.defects import Defect
from tests.environment import ONE_THREAD, clean_environment, with_plugins

T = TypeVar("T")
Run = tuple[int, dict[str, Any], str]
"""Exit code, report and output of the command."""

ASIDE = 5
"""Niceness of runs that go on beside other tests: those go first where both want a processor."""


def conform(folder: Path, *words: str, defect: str = "", faults: str = "", niceness: int = 0) -> Run:
    """The command on the faulty device."""
    environ = with_plugins(clean_environment(), ["faulty"], folder / "site")
    environ |= ONE_THREAD | ({"FAULTY_DEFECT": defect} if defect else {})
    environ |= {"MIX_SIM_FAULTS": faults, "MIX_SIM_TIMEOUT": "10"} if faults else {}
    command = ["nice", f"-n{niceness}", sys.executable, "-W", "ignore", "-m", "mix_core.cli.main"]
    command += ["conformance", "--device", "faulty", "--simulate", "--report", str(folder / "report")]
    done = subprocess.run(
        [*command, *words], env=environ, cwd=folder, capture_output=True, text=True, timeout=1800
    )
    path = folder / "report" / "report.json"
    report = json.loads(path.read_text()) if path.is_file() else {"cases": []}
    return done.returncode, report, done.stdout + done.stderr


def run_suite(folder: Path, defect: Defect, *words: str, niceness: int = 0) -> Run:
    name = "" if defect.faults else defect.name
    return conform(folder, *words, defect=name, faults=defect.faults, niceness=niceness)


def red(report: dict[str, Any]) -> list[str]:
    return [case["id"] for case in report["cases"] if case["status"] == "failed"]


def run_up_to_red(folder: Path, defect: Defect, niceness: int = 0) -> list[Run]:
    """The suite up to where it turns red, then the named cases that were not red in it, by themselves.

    Those are the ones behind the first red process, and what a fault that strikes once has spared.
    """
    run = run_suite(folder, defect, "--fail-fast", niceness=niceness)
    failed = red(run[1])
    spared = [name for name in defect.caught_by if not any(fnmatchcase(case, name) for case in failed)]
    if not spared:
        return [run]
    words = [word for name in spared for word in ("--case", name)]
    (alone := folder / "alone").mkdir()
    return [run, run_suite(alone, defect, *words, niceness=niceness)]


class Runs(Generic[T]):
    """Runs of the suite, in order: one at a time until they are waited for, then as many as processors.

    A run keeps one processor busy, and most tests leave one idle for most of their time.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[Future[T], Callable[[], T]]] = deque()
        self._threads: list[Thread] = []

    def add(self, run: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        self._waiting.append((future, run))
        return future

    def start(self, threads: int) -> None:
        """Work on them with so many threads."""
        while len(self._threads) < threads:
            self._threads.append(Thread(target=self._work))
            self._threads[-1].start()

    def hurry(self) -> None:
        self.start(os.cpu_count() or 1)

    def stop(self) -> None:
        """Begin no other run, and wait for those that go on."""
        self._waiting.clear()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while self._waiting:
            try:
                future, run = self._waiting.popleft()
            except IndexError:  # another thread took the last
                return
            try:
                future.set_result(run())
            except BaseException as error:  # the test that waits for it has to see it
                future.set_exception(error)
