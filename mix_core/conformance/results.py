"""report.json: what a run of the suite found, and how two of them differ. The schema: docs/conformance.md."""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from mix_core.conformance.case import LEVELS
from mix_core.conformance.plan import Selection
from mix_core.conformance.runner import Result
from mix_core.conformance.target import Target
from mix_core.device.cpu_topology import available_cores, read_processor
from mix_core.errors import BadInputError

SCHEMA = "mix_core.conformance"
VERSION = 1
REPORT = "report.json"
BADGE = "badge.txt"
WORST_FIRST = ("failed", "expected failure", "skipped", "passed")
_KEYS = ("schema", "version", "complete", "device", "versions", "counts", "level_reached", "cases")


def make_report(
    target: Target, selection: Selection, results: list[Result], seconds: float
) -> dict[str, Any]:
    """The report as plain values."""
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "made": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "complete": selection.complete and target.problem is None,
        "device": {
            "name": target.name,
            "simulated": target.simulated,
            "vendor": target.profile.vendor,
            "dtypes": {kind: list(dtypes) for kind, dtypes in target.profile.dtypes.items()},
            "capabilities": sorted(c.value for c in target.profile.capabilities),
            "not_run_on_hardware": list(target.profile.not_run_on_hardware),
        },
        "versions": versions(target),
        "host": {"processor": read_processor().model, "cores": available_cores()[0]},
        "seconds": round(seconds, 1),
        "counts": dict(Counter(result.status for result in results)),
        "levels": {
            str(level): dict(Counter(r.status for r in results if r.level == level))
            for level in sorted({result.level for result in results})
        },
        "level_reached": level_reached(results),
        "exceptions": [
            {"id": e.id, "kind": e.kind, "factor": e.factor, "reason": e.reason, "issue": e.issue}
            | {"until_version": e.until_version}
            for e in target.exceptions.entries
        ],
        "fallbacks": sorted({name for r in results for name in r.facts.get("fallbacks", ())}),
        "cases": [result.to_json() for result in results],
    }


def versions(target: Target) -> dict[str, str]:
    """Of everything that a result may depend on."""
    wanted = {"mix-core", "numpy", target.distribution}
    found = {
        distribution.metadata["Name"]: distribution.version
        for distribution in metadata.distributions()
        if (name := distribution.metadata["Name"] or "") in wanted or name.lower().startswith("paddle")
    }
    return dict(sorted(found.items())) | {"python": platform.python_version(), "system": platform.platform()}


def level_reached(results: Iterable[Result]) -> int | None:
    """The highest level of which cases ran and none is red, nor below it; None where level 0 is not."""
    by_level: dict[int, list[Result]] = {}
    for result in results:
        by_level.setdefault(result.level, []).append(result)
    reached = None
    for level in LEVELS:
        found = {result.status for result in by_level.get(level, ())}
        if "failed" in found or "passed" not in found:
            break
        reached = level
    return reached


def write_report(folder: Path, report: Mapping[str, Any]) -> list[Path]:
    """Write report.json, report.html and, of a complete report, badge.txt. Raises BadInputError."""
    from mix_core.conformance.page import page

    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in (
            (REPORT, _lines(report)),
            ("report.html", page(report)),
            (BADGE, badge(report)),
        ):
            if text is None:
                (folder / name).unlink(missing_ok=True)
                continue
            (folder / name).write_text(text, encoding="utf-8")
            written.append(folder / name)
    except OSError as error:
        raise BadInputError(
            f"the report cannot be written to {folder}: {error.strerror}; name another folder"
        ) from error
    return written


def _lines(report: Mapping[str, Any]) -> str:
    """JSON with a line for each case, so that two reports can be told apart line by line."""
    head = json.dumps({key: value for key, value in report.items() if key != "cases"}, indent=1)
    cases = ",\n".join(json.dumps(case) for case in report["cases"])
    return f'{head.removesuffix("}").rstrip()},\n "cases": [\n{cases}\n]}}\n'


def badge(report: Mapping[str, Any]) -> str | None:
    """`conformant L5 ...`, or None: a part of the suite earns nothing, and neither does a red level 0."""
    if not report["complete"] or report["level_reached"] is None:
        return None
    device, counts = report["device"], report["counts"]
    kind = " (simulated, not hardware)" if device["simulated"] else ""
    excused = counts.get("expected failure", 0) + sum(e["kind"] == "skip" for e in report["exceptions"])
    widened = sum(case["widened"] is not None for case in report["cases"])
    notes = f", {excused} excused, {widened} widened" if excused or widened else ""
    return (
        f"conformant L{report['level_reached']} {device['name']}{kind}: {counts.get('passed', 0)} passed, "
        f"{counts.get('failed', 0)} failed, {counts.get('skipped', 0)} skipped{notes}; "
        f"mix-core {report['versions'].get('mix-core', '?')}, {report['made'][:10]}\n"
    )


def read_report(path: Path) -> dict[str, Any]:
    """A report.json, or one in a folder. Raises BadInputError for anything else and for another version."""
    path = path / REPORT if path.is_dir() else path
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInputError(f"{path} does not exist; give a {REPORT} or the folder of one") from None
    except (OSError, ValueError) as error:
        raise BadInputError(f"{path} cannot be read as a report: {error}") from None
    if not isinstance(report, dict) or report.get("schema") != SCHEMA:
        raise BadInputError(f"{path} is no report of the conformance suite (schema {SCHEMA!r})")
    if report.get("version") != VERSION:
        raise BadInputError(
            f"{path} has schema version {report.get('version')!r}, this mix-core reads {VERSION}; make it "
            "anew"
        )
    missing = [key for key in _KEYS if key not in report]
    if missing:
        raise BadInputError(f"{path} lacks {', '.join(missing)}: it is damaged or was cut off")
    return report


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Lines about what differs, what got worse first."""
    before = {case["id"]: case for case in old["cases"]}
    now = {case["id"]: case for case in new["cases"]}
    worse, better, other = [], [], []
    for name in [*now, *(name for name in before if name not in now)]:
        was, has = before.get(name), now.get(name)
        if was is None or has is None:
            if has is not None and has["status"] == "failed":
                worse.append(f"worse   {name}: new, and failed: {has['message']}")
            elif has is not None:
                other.append(f"new     {name}: {has['status']}")
            elif new["complete"] and was is not None:
                worse.append(f"worse   {name}: {was['status']} before, and not asked any more")
        elif was["status"] != has["status"]:
            line = f"{name}: {was['status']} before, now {has['status']}"
            if WORST_FIRST.index(has["status"]) < WORST_FIRST.index(was["status"]):
                worse.append(f"worse   {line}: {has['message'] or has['reason'] or ''}".rstrip(": "))
            else:
                better.append(f"better  {line}")
        elif _margin(has) > 2 * _margin(was) > 0 and _margin(has) > 0.1:
            worse.append(
                f"worse   {name}: distance {was['facts']['distance']:.1e}, now {has['facts']['distance']:.1e}"
            )
    return worse + better + other or ["nothing differs"]


def _margin(case: Mapping[str, Any]) -> float:
    """How much of its limit a case has used up; 0 where nothing was measured."""
    facts = case.get("facts", {})
    return float(facts["distance"] / facts["limit"]) if "distance" in facts and facts.get("limit") else 0.0
