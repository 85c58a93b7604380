"""report.html: a report of the suite to look at. One file without script, network or fonts of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from mix_core.conformance.case import LEVELS

STYLE = Path(__file__).with_name("page.css")
DTYPES = ("float32", "bfloat16", "float16", "float64", "int64", "int32", "bool")
WIDTH, HEIGHT, LEFT, BOTTOM = 320, 150, 34, 20
SLOWEST = 12
Case = Mapping[str, Any]


def page(report: Mapping[str, Any]) -> str:
    """The whole page."""
    device = report["device"]
    kind = "simulated " if device["simulated"] else ""
    title = f"Conformance of {kind}{escape(device['name'])}"
    parts = [
        _head(report, title),
        _failures(report["cases"]),
        _matrix("Operators", "L2", report["cases"]),
        _matrix("Replaceable operators", "L3", report["cases"]),
        _curves(report["cases"]),
        _excused(report),
        _skips(report["cases"]),
        _timings(report["cases"]),
        _versions(report),
    ]
    body = "\n".join(part for part in parts if part)
    style = STYLE.read_text(encoding="utf-8")
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head = f"<head>{meta}<title>{title}</title>\n<style>{style}</style></head>"
    return f'<!doctype html>\n<html lang="en">{head}\n<body><main>\n{body}\n</main></body></html>\n'


def _head(report: Mapping[str, Any], title: str) -> str:
    device, reached = report["device"], report["level_reached"]
    counts = ", ".join(f"{count} {escape(status)}" for status, count in sorted(report["counts"].items()))
    lead = "no level is green" if reached is None else f"green up to level {reached}, {LEVELS[reached]}"
    what = "the whole suite" if report["complete"] else "a part of the suite"
    lines = [
        f"<h1>{title}</h1>",
        f'<p class="soft">{escape(device["vendor"])} · {report["made"]} · {what}, '
        f"{report['seconds']:.0f} s</p>",
        f"<p><b>{lead}</b>: {counts}</p>",
    ]
    if device["simulated"]:
        lines.append(
            "<p>Run on a simulated device: the plugin's settings, choice of kernels and operator table are "
            "proven, the chip's own kernels, speed and rounding are not.</p>"
        )
    if device["not_run_on_hardware"]:
        never = escape(", ".join(device["not_run_on_hardware"]))
        lines.append(f"<p>Never run on the chip, says the plugin: {never}.</p>")
    boxes = []
    for level, name in LEVELS.items():
        found = report["levels"].get(str(level))
        state = "" if found is None else ("bad" if found.get("failed") else "good")
        says = "not run" if found is None else f"{found.get('passed', 0)} of {sum(found.values())}"
        boxes.append(f'<div class="level {state}">L{level}<b>{says}</b>{name}</div>')
    return "\n".join([*lines, f'<div class="levels">{"".join(boxes)}</div>'])


def _failures(cases: Iterable[Case]) -> str:
    rows = [
        f'<div class="failure"><b><code>{escape(case["id"])}</code></b><p>{escape(case["asks"])}</p>'
        f"<p>{escape(case['message'])}</p><p><code>{escape(case['rerun'])}</code></p></div>"
        for case in cases
        if case["status"] == "failed"
    ]
    return f"<h2>Red: {len(rows)}</h2>{''.join(rows)}" if rows else ""


def _matrix(title: str, level: str, cases: Iterable[Case]) -> str:
    """Operators by dtype: one cell for all their cases."""
    cells: dict[str, dict[str, list[Case]]] = {}
    for case in cases:
        if case["id"].startswith(f"{level}/") and case["operator"] and case["dtype"]:
            cells.setdefault(case["operator"], {}).setdefault(case["dtype"], []).append(case)
    if not cells:
        return ""
    dtypes = [dtype for dtype in DTYPES if any(dtype in row for row in cells.values())]
    head = "".join(f"<th>{dtype}</th>" for dtype in dtypes)
    rows = []
    for operator, row in sorted(cells.items()):
        columns = "".join(_cell(row.get(dtype, [])) for dtype in dtypes)
        rows.append(f"<tr><th><code>{escape(operator)}</code></th>{columns}</tr>")
    key = "".join(
        f'<span class="cell {name}">{text}</span>'
        for name, text in (
            ("passed", "all green"),
            ("failed", "red"),
            ("fallback", "right, runs on the CPU"),
            ("excused", "excused or widened"),
            ("skipped", "skipped by rule"),
        )
    )
    how = "A number is the distance that came nearest to its limit, as a part of it."
    table = f'<table class="matrix"><tr><th></th>{head}</tr>{"".join(rows)}</table>'
    return f'<h2>{title}</h2><p class="key">{key}</p><p class="soft">{how}</p>{table}'


def _cell(cases: list[Case]) -> str:
    if not cases:
        return '<td class="cell absent">·</td>'
    failed = [case for case in cases if case["status"] == "failed"]
    ran = [case for case in cases if case["status"] != "skipped"]
    asked = [case for case in ran if "/strict/" not in case["id"]]
    excused = [c for c in cases if c["status"] == "expected failure" or c["widened"] is not None]
    fallbacks = sorted({name for case in ran for name in case["facts"].get("fallbacks", ())})
    margins = [c["facts"]["distance"] / c["facts"]["limit"] for c in ran if c["facts"].get("limit")]
    kernels = sorted({c["facts"]["kernel"] for c in ran if "kernel" in c["facts"]})
    said = [f"{len(ran)} of {len(cases)} cases ran", *kernels, *(f"falls back: {name}" for name in fallbacks)]
    if failed:
        state, text = "failed", f"{len(failed)} red"
        said += [case["id"] for case in failed]
    elif not asked:
        state, text = "skipped", "skipped"
        said += sorted({case["reason"] or "" for case in cases})
    else:
        state = "excused" if excused else "fallback" if fallbacks else "passed"
        text = f"{max(margins):.2f}" if margins and max(margins) > 0 else "exact"
    return f'<td class="cell {state}" title="{escape("; ".join(said))}">{text}</td>'


def _curves(cases: Iterable[Case]) -> str:
    figures = [_curve(case) for case in cases if case["facts"].get("curve")]
    note = '<p class="soft">Solid: this device. Dashed: what it is compared with.</p>'
    return f'<h2>Training</h2>{note}<div class="curves">{"".join(figures)}</div>' if figures else ""


def _curve(case: Case) -> str:
    found, wanted = case["facts"]["curve"], case["facts"]["reference"]
    both = [value for value in (*found, *wanted) if value == value]
    low, high = min(both), max(both)
    span = (high - low) or 1.0

    def line(values: list[float], style: str) -> str:
        step = (WIDTH - LEFT - 6) / max(1, len(values) - 1)
        places = (
            f"{LEFT + i * step:.1f},{6 + (HEIGHT - BOTTOM - 6) * (high - v) / span:.1f}"
            for i, v in enumerate(values)
        )
        return f'<polyline class="{style}" points="{" ".join(places)}"/>'

    floor = HEIGHT - BOTTOM
    texts = (
        f'<text x="0" y="14">{high:.2f}</text><text x="0" y="{floor}">{low:.2f}</text>'
        f'<text x="{LEFT}" y="{HEIGHT - 4}">step 1</text>'
        f'<text x="{WIDTH - 6}" y="{HEIGHT - 4}" text-anchor="end">{len(found)}</text>'
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - 6}" y1="{floor}" y2="{floor}"/>'
    )
    off = case["facts"].get("distance")
    caption = f"{escape(case['id'])}" + (f", off by {off:.1e} at most" if off is not None else "")
    lines = line(wanted, "wanted") + line(found, "found")
    drawn = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}">{texts}{lines}</svg>'
    return f"<figure><figcaption><code>{caption}</code></figcaption>{drawn}</figure>"


def _excused(report: Mapping[str, Any]) -> str:
    rows = [
        f"<tr><td><code>{escape(e['id'])}</code></td><td>{e['kind']}</td><td>{escape(e['reason'])} "
        f"({escape(e['issue'])})</td><td>until {escape(e['until_version'])}</td></tr>"
        for e in report["exceptions"]
    ]
    rows += [
        f"<tr><td><code>{escape(c['id'])}</code></td><td>widened {c['widened']:g} times</td>"
        f"<td>{c['facts'].get('distance', 0):.2e} of {c['facts'].get('limit', 0):.2e}</td><td></td></tr>"
        for c in report["cases"]
        if c["widened"] is not None
    ]
    fallbacks = ", ".join(f"<code>{escape(name)}</code>" for name in report.get("fallbacks", ()))
    text = f"<h2>Fallbacks to the CPU</h2><p>{fallbacks}</p>" if fallbacks else ""
    return text + (f"<h2>Excused by the plugin</h2><table>{''.join(rows)}</table>" if rows else "")


def _skips(cases: Iterable[Case]) -> str:
    by_reason: dict[str, list[str]] = {}
    for case in cases:
        if case["status"] == "skipped":
            by_reason.setdefault(case["reason"], []).append(case["id"])
    if not by_reason:
        return ""
    rows = []
    for reason, names in by_reason.items():
        listed = "<br>".join(f"<code>{escape(name)}</code>" for name in names)
        rows.append(f"<details><summary>{len(names)}: {escape(reason)}</summary><p>{listed}</p></details>")
    return f"<h2>Skipped: {sum(map(len, by_reason.values()))}</h2>{''.join(rows)}"


def _timings(cases: Iterable[Case]) -> str:
    slow = sorted(cases, key=lambda case: -case["seconds"])[:SLOWEST]
    rows = "".join(
        f"<tr><td><code>{escape(c['id'])}</code></td><td>{c['seconds']:.2f} s</td></tr>" for c in slow
    )
    return f"<h2>Slowest cases</h2><table>{rows}</table>"


def _versions(report: Mapping[str, Any]) -> str:
    host = report.get("host", {})
    facts = report["versions"] | {"processor": host.get("processor", ""), "cores": str(host.get("cores", ""))}
    if report["device"].get("table"):
        facts["operator table"] = report["device"]["table"]
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in facts.items()
    )
    return f"<h2>Versions</h2><table>{rows}</table>"
