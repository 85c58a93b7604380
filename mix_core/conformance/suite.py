"""One run of the suite from its arguments to its report; the command and pytest both come through here."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mix_core.conformance.plan import Selection, all_cases, select
from mix_core.conformance.results import make_report
from mix_core.conformance.runner import Result, Runner
from mix_core.conformance.target import Target, find_target
from mix_core.device import preparation, simulate, simulate_build

SCRATCH = "mix-conformance-"


@dataclass(frozen=True)
class Outcome:
    """What a run found."""

    target: Target
    results: list[Result]
    report: dict[str, Any]

    @property
    def failed(self) -> list[Result]:
        return [result for result in self.results if result.status == "failed"]


def run_suite(
    device: str,
    *,
    simulated: bool = False,
    selection: Selection | None = None,
    progress: Callable[[Result, int, int, float], None] | None = None,
) -> Outcome:
    """Run the cases that were asked for.

    Raises:
        BadInputError: an unknown device, level, operator, model or case; a wrong conformance.toml.
        DeviceError: the simulated device cannot be built.
    """
    selection = selection or Selection()
    target = find_target(device, simulated=simulated)
    cases = select(all_cases(target), selection)
    if simulated and target.problem is None:
        preparation.refuse_other_paddle(target.profile)
        simulate_build.library()  # once, before the clock of a case runs
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=SCRATCH) as scratch:
        results = Runner(target, Path(scratch), progress).run(cases, fail_fast=selection.fail_fast)
    report = make_report(target, selection, results, time.monotonic() - started)
    if simulated:
        report["device"]["table"] = (target.support or {}).get("source")
        report["device"]["simulator"] = {"memory": simulate.requested({}).memory_bytes}
    return Outcome(target, results, report)
