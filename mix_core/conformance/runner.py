"""Runs the cases, each group in a process of its own, and says how far it is.

A process that dies, hangs or cannot start makes the case it was at red, and a new process goes on with the
next case of the group.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from mix_core.conformance.case import RUN_ORDER, Case, Group
from mix_core.conformance.plan import by_group
from mix_core.conformance.target import Target, host_environment
from mix_core.device.conformance_file import Entry

Status = Literal["passed", "failed", "skipped", "expected failure"]
START_S = 600.0
"""For the start of a process, in which a simulated device may have to be built."""
POLL_S = 0.05
USUAL_S = {0: 0.2, 1: 0.2, 2: 0.01, 3: 0.02, 4: 0.8, 5: 2.0, 6: 0.1}
"""Of a case by level on a simulated device: the shares by which the time left is told."""
USUAL_START_S = 3.0


@dataclass
class Result:
    """What came of a case."""

    id: str
    level: int
    asks: str
    status: Status
    message: str | None = None
    """Of a failure: what was computed, on what, how far off, at which element."""
    reason: str | None = None
    """Of a skip or an expected failure: the rule, or the entry of conformance.toml."""
    seconds: float = 0.0
    operator: str | None = None
    dtype: str | None = None
    model: str | None = None
    widened: float | None = None
    rerun: str | None = None
    """The command that runs this case alone."""
    facts: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


Progress = Callable[[Result, int, int, float], None]
"""Called after each case: result, cases done, cases in all, seconds left."""


class Runner:
    """Runs cases of one target; `scratch` is shared by all of them."""

    def __init__(self, target: Target, scratch: Path, progress: Progress | None = None) -> None:
        self.target, self.scratch, self.progress = target, scratch, progress
        self.done, self.total, self.started = 0, 0, time.monotonic()
        self.work_done, self.work = 0.0, 0.0

    def run(self, cases: list[Case], *, fail_fast: bool = False) -> list[Result]:
        """Results in the order of the cases; with `fail_fast` of those up to the first red one's process."""
        self.total, self.started = len(cases), time.monotonic()
        self.work = sum(USUAL_S[case.level] for case in cases if not case.unless)
        self.work += USUAL_START_S * len(by_group(cases))
        found: dict[str, Result] = {}
        for group in sorted(by_group(cases).values(), key=lambda group: RUN_ORDER.index(group[0].level)):
            for result in self.run_group(group):
                found[result.id] = result
            if fail_fast and any(result.status == "failed" for result in found.values()):
                break
        return [found[case.id] for case in cases if case.id in found]

    def run_group(self, cases: list[Case]) -> Iterable[Result]:
        """Run the cases of one group; those that are excused do not start a process."""
        waiting = []
        for case in cases:
            skipped = self._skipped(case)
            if skipped is not None:
                yield self._tell(skipped)
            else:
                waiting.append(case)
        self.work_done += USUAL_START_S
        while waiting:
            before = len(waiting)
            for line in self._process(waiting):
                case = next(case for case in waiting if case.id == line["case"])
                waiting.remove(case)
                yield self._tell(self._judge(case, line))
            assert len(waiting) < before, "every process answers for a case"

    def _skipped(self, case: Case) -> Result | None:
        reason = case.unless
        entry = self.target.exceptions.of(case.id, "skip")
        if reason is None and entry is not None:
            reason = _why(entry)
        return None if reason is None else self._result(case, "skipped", reason=reason)

    def _judge(self, case: Case, line: dict[str, Any]) -> Result:
        message: str | None = line["message"]
        entry = self.target.exceptions.of(case.id, "fail")
        rest = {"seconds": line["seconds"], "facts": line["facts"]}
        if entry is None:
            return self._result(case, "failed" if message else "passed", message=message, **rest)
        why = _why(entry)
        if message:
            return self._result(case, "expected failure", message=message, reason=why, **rest)
        where = entry.place or self.target.exceptions.file
        text = f"it passes, but {where} expects it to fail: take the entry out"
        return self._result(case, "failed", message=text, **rest)

    def _result(self, case: Case, status: Status, **fields: Any) -> Result:
        widened = self.target.exceptions.of(case.id, "widen")
        return Result(
            id=case.id,
            level=case.level,
            asks=case.asks,
            status=status,
            operator=case.operator,
            dtype=case.dtype,
            model=case.model,
            widened=widened.factor if widened else None,
            rerun=f"mix-core conformance {self.target.words} --case '{case.id}'",
            **fields,
        )

    def _tell(self, result: Result) -> Result:
        self.done += 1
        if self.progress is not None:
            spent = time.monotonic() - self.started
            self.work_done += 0.0 if result.status == "skipped" else USUAL_S[result.level]
            left = spent * max(0.0, self.work / self.work_done - 1.0) if self.work_done else 0.0
            self.progress(result, self.done, self.total, left)
        return result

    def _process(self, cases: list[Case]) -> list[dict[str, Any]]:
        """Run cases in one process until it ends; the answers, the last of them perhaps of its death."""
        group = cases[0].group
        with tempfile.TemporaryDirectory(prefix="mix-group-") as name:
            folder = Path(name)
            plan, results, words = (folder / part for part in ("plan.json", "results.jsonl", "output.txt"))
            plan.write_text(json.dumps(self._plan(cases)), encoding="utf-8")
            command = [
                sys.executable,
                "-W",
                "ignore",
                "-m",
                "mix_core.conformance.child",
                str(plan),
                str(results),
            ]
            with words.open("wb") as output:
                process = subprocess.Popen(
                    command, env=_environment(group), stdout=output, stderr=output, start_new_session=True
                )
                overdue = _watch(process, results, group)
            return _answers(cases, results, words, process.returncode, overdue)

    def _plan(self, cases: list[Case]) -> dict[str, Any]:
        return {
            "device": self.target.name,
            "simulated": self.target.simulated,
            "cases": [case.id for case in cases],
            "scratch": str(self.scratch),
        }


def _why(entry: Entry) -> str:
    """An exception in one line; of the file its name alone, as reports travel."""
    return f"{entry.reason} ({entry.issue}, until {entry.until_version}; {Path(entry.place).name})"


def _environment(group: Group) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name.startswith("MIX_SIM_")}
    return host_environment() | kept | dict(group.variables)


def _watch(process: subprocess.Popen[bytes], results: Path, group: Group) -> bool:
    """Wait for the end; True where a case took too long and the process was ended."""
    written, since = -1, time.monotonic()
    while process.poll() is None:
        time.sleep(POLL_S)
        now = results.stat().st_size if results.is_file() else 0
        if now != written:
            written, since = now, time.monotonic()
        limit = START_S if written == 0 else group.timeout_s
        if time.monotonic() - since > limit:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return True
    return False


def _lines(results: Path) -> list[dict[str, Any]]:
    if not results.is_file():
        return []
    text = results.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _answers(cases: list[Case], results: Path, words: Path, code: int, overdue: bool) -> list[dict[str, Any]]:
    """The answers of a process; the case that it died at is red."""
    lines = _lines(results)
    found = [
        {"case": line["ends"], "message": line["message"], "seconds": line["seconds"], "facts": line["facts"]}
        for line in lines
        if "ends" in line
    ]
    if len(found) == len(cases) and code == 0:
        return found
    ended = {line["case"] for line in found}
    at = next((line["begins"] for line in lines if line.get("begins", "") not in ("", *ended)), None)
    said = words.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = "; ".join(line.strip() for line in said[-6:]) or "nothing"
    how = "took too long and was ended" if overdue else f"died ({_way(code)})"
    if at is None and len(found) == len(cases):
        found[-1]["message"] = (
            found[-1]["message"] or f"the process {how} after its last case; it said: {last}"
        )
        return found
    if at is None and not found:  # nothing was asked yet: it is so for all of them
        text = f"the process {how} before its first case; it said: {last}"
        return [{"case": case.id, "message": text, "seconds": 0.0, "facts": {}} for case in cases]
    at = at or next(case.id for case in cases if case.id not in ended)
    found.append({"case": at, "message": f"the process {how}; it said: {last}", "seconds": 0.0, "facts": {}})
    return found


def _way(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
