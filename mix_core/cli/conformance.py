"""`mix-core conformance`: whether a device's plugin is right, and how far."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mix_core.conformance.runner import Result

SLOW_S = 5.0


def register(app: typer.Typer) -> None:
    @app.command("conformance")
    def conformance(
        device: str | None = typer.Option(None, "--device", help="Device, for example npu or npu:1."),
        simulate: bool = typer.Option(False, "--simulate", help="Test the plugin on a simulated device."),
        level: int | None = typer.Option(None, "--level", help="Levels 0 to N; all without it."),
        only_level: int | None = typer.Option(None, "--only-level", help="Level N alone."),
        op: str | None = typer.Option(None, "--op", help="Cases about one operator, for example rms_norm."),
        model: str | None = typer.Option(None, "--model", help="Cases about one model family."),
        case: Annotated[
            list[str] | None, typer.Option("--case", help="A case or pattern; repeatable.")
        ] = None,
        report: Annotated[Path | None, typer.Option("--report", help="Folder for the report.")] = None,
        against: Annotated[Path | None, typer.Option("--against", help="An older report.json.")] = None,
        fail_fast: bool = typer.Option(False, "--fail-fast", help="Stop where something is red."),
        listed: bool = typer.Option(False, "--list", help="Show the cases and run none."),
    ) -> None:
        """Run the conformance suite on a device: exit code 0 all green, 1 something red, 2 bad input."""
        import os

        from mix_core.conformance.case import LEVELS
        from mix_core.conformance.plan import Selection, all_cases, select
        from mix_core.conformance.results import compare, read_report, write_report
        from mix_core.conformance.suite import run_suite
        from mix_core.conformance.target import find_target
        from mix_core.device import choice
        from mix_core.errors import EXIT_NOT_USABLE, BadInputError

        name = device or os.environ.get(choice.VARIABLE)
        if not name:
            raise BadInputError(
                "no device: name the one to test with --device; `mix-core devices` lists them"
            )
        if level is not None and only_level is not None:
            raise BadInputError("give either --level or --only-level")
        selection = Selection(
            max(LEVELS) if level is None else level, only_level, op, model, tuple(case or ()), fail_fast
        )
        old = read_report(against) if against is not None else None
        if listed:
            for one in select(all_cases(find_target(name, simulated=simulate)), selection):
                typer.echo(f"{one.id}  {one.asks}" + (f" (skipped: {one.unless})" if one.unless else ""))
            return
        printer = _Printer()
        outcome = run_suite(name, simulated=simulate, selection=selection, progress=printer.show)
        printer.end()
        for line in summary(outcome.report):
            typer.echo(line)
        if old is not None:
            typer.echo(f"\nagainst {against} of {old['made']}:")
            for line in compare(old, outcome.report):
                typer.echo(line)
        if report is not None:
            for path in write_report(report, outcome.report):
                typer.echo(f"wrote {path}")
            if not outcome.report["complete"]:
                typer.echo("no badge: this was a part of the suite")
        if outcome.failed:
            raise typer.Exit(EXIT_NOT_USABLE)


class _Printer:
    """Progress on standard error: one line that is written over on a terminal, a line a level elsewhere."""

    def __init__(self) -> None:
        import sys

        self.stream = sys.stderr
        self.moving = self.stream.isatty()
        self.level = -1

    def show(self, result: Result, done: int, total: int, left_s: float) -> None:
        if result.status == "failed":
            self._clear()
            print(f"red: {result.id}", file=self.stream)
        text = f"[{done}/{total}] {result.id} ({result.seconds:.1f} s), {left_s:.0f} s left"
        if self.moving:
            self._clear()
            print(text[:110], end="", file=self.stream, flush=True)
        elif result.level != self.level:
            print(
                f"[{done}/{total}] level {result.level} begins, {left_s:.0f} s left",
                file=self.stream,
                flush=True,
            )
        self.level = result.level

    def end(self) -> None:
        self._clear()

    def _clear(self) -> None:
        if self.moving:
            print("\r\033[K", end="", file=self.stream, flush=True)


def summary(report: dict[str, Any]) -> list[str]:
    """The report for people: a line a level, what is excused or widened, what is red."""
    from mix_core.conformance.case import LEVELS

    device = report["device"]
    kind = "simulated " if device["simulated"] else ""
    lines = [f"{kind}{device['name']} ({device['vendor']}), {report['seconds']:.0f} s"]
    for level, counts in report["levels"].items():
        parts = ", ".join(f"{n} {status}" for status, n in sorted(counts.items()))
        lines.append(f"L{level} {LEVELS[int(level)]:22} {parts}")
    rules: dict[str, int] = {}
    for case in report["cases"]:
        if case["status"] == "skipped":
            rules[case["reason"]] = rules.get(case["reason"], 0) + 1
        elif case["status"] == "expected failure":
            lines.append(f"expected failure {case['id']}: {case['reason']}")
        if case["widened"] is not None:
            lines.append(f"widened {case['id']}: {case['widened']:g} times the limit, {case['facts']}")
    lines += [f"skipped {count}: {reason}" for reason, count in rules.items()]
    lines += [f"falls back to the CPU: {name}" for name in report.get("fallbacks", ())]
    failed = [case for case in report["cases"] if case["status"] == "failed"]
    lines += [f"FAILED  {case['id']}: {case['message']}\n        again: {case['rerun']}" for case in failed]
    reached = report["level_reached"]
    if "0" in report["levels"]:
        lines.append("no level is reached" if reached is None else f"green up to L{reached}")
    return lines
