"""`report.html`: one file that shows a run, made from the files of its folder. Opens anywhere, also offline.

It holds its style, its script and its pictures; the page's own policy forbids it to load anything.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from mix_core.errors import RunFailedError
from mix_core.training.report_charts import charts_html
from mix_core.training.report_gallery import gallery_html
from mix_core.training.report_speed import speed_html, speed_text
from mix_core.training.report_view import RunView, count, duration, is_number, number, read_run, share

NAME = "report.html"
STYLE, SCRIPT = "report.css", "report.js"
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"

MEANINGS = {"exact": "answers that are exactly the truth", "iou": "mean overlap with the true box (IoU)"}
STATUSES = {"finished": "good", "running": "neutral", "interrupted": "warn", "failed": "bad"}


def write_report(run_dir: str | Path) -> Path:
    """Write report.html into the run folder and return its path.

    Raises:
        BadInputError: there is no such folder.
        RunFailedError: the file cannot be written.
    """
    run = read_run(run_dir)
    path = run.folder / NAME
    beside = run.folder / f".{NAME}.new"
    try:
        beside.write_text(page(run), encoding="utf-8")
        os.replace(beside, path)
    except OSError as error:
        raise RunFailedError(
            f"cannot write {path}: {error.strerror}; make room and write it again"
        ) from error
    return path


def page(run: RunView) -> str:
    """The whole page."""
    here = Path(__file__).parent
    style, script = ((here / name).read_text(encoding="utf-8") for name in (STYLE, SCRIPT))
    sections = [
        ("results", "Results", results_html(run)),
        ("curves", "Curves", charts_html(run) or _none("No step was measured.")),
        ("time", "Where the time went", speed_html(run)),
        ("pictures", "Held-out pictures", gallery_html(run) + attribution_html(run)),
        ("details", "Details", configuration_html(run) + versions_html(run) + device_html(run)),
    ]
    body = "".join(
        f'<section id="{anchor}"><h2>{title}</h2>{content}</section>'
        for anchor, title, content in sections
        if content
    )
    title = escape(run_name(run))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{title} · mix-core</title>\n"
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<style>\n{style}</style>\n</head>\n<body>\n<main>\n{header_html(run)}\n{body}\n</main>\n"
        f"{footer_html(run)}\n<script>\n{script}</script>\n</body>\n</html>\n"
    )


def run_name(run: RunView) -> str:
    return run.folder.resolve().name


def header_html(run: RunView) -> str:
    """Name, state, and the facts that one asks for first."""
    record, model, device = run.record, run.section("model"), run.section("device")
    status = str(record.get("status") or "no record")
    kind = "simulated, not the chip" if device.get("simulated") else device.get("vendor")
    facts = [
        ("Model", _joined(model.get("family"), _counted(model.get("parameters"), "parameters"))),
        ("Device", _joined(device.get("place") or device.get("name"), kind)),
        ("Data", _joined(_rows_of(run, "train"), _rows_of(run, "eval"))),
        ("Duration", _joined(_duration(run), _steps(run))),
        ("Speed", speed_text(run)),
    ]
    listed = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in facts if value)
    message = record.get("message")
    note = f'<p class="message">{escape(str(message))}</p>' if message else ""
    eyebrow = _joined("mix-core run", _clock(record.get("started")))
    return (
        f'<header><p class="eyebrow">{escape(eyebrow)}</p><h1>{escape(run_name(run))}'
        f'<span class="status {STATUSES.get(status, "neutral")}">{escape(status)}</span></h1>'
        f'{note}<dl class="facts">{listed}</dl></header>'
    )


def results_html(run: RunView) -> str:
    """The table of results, with a bar for each share."""
    rows = []
    for name, value in run.results.items():
        task, _, kind = name.rpartition("_")
        if kind in MEANINGS and is_number(value):
            bar = f'<div class="bar"><i style="width:{100 * min(max(value, 0), 1):.1f}%"></i></div>'
            shown, meaning = share(value) if kind == "exact" else f"{value:.3f}", MEANINGS[kind]
            label = task or "all rows"
        else:
            bar, label = "", "held-out loss" if name == "loss" else name
            shown = number(value) if is_number(value) else str(value)
            meaning = "mean over the label tokens of the held-out rows" if name == "loss" else ""
        rows.append(
            f'<tr><th scope="row">{escape(label)}<code>{escape(name)}</code></th>'
            f'<td class="value">{escape(shown)}</td>'
            f'<td class="meaning">{bar}<span class="hint">{meaning}</span></td></tr>'
        )
    if not rows:
        return _none("The run was not evaluated, or has not come that far.")
    return f'<table class="results"><tbody>{"".join(rows)}</tbody></table>'


def attribution_html(run: RunView) -> str:
    """What ATTRIBUTION beside the data says: the report shows its pictures, and their licence asks for it.

    Addresses stand as text without their scheme: the page links nowhere.
    """
    if not run.gallery:
        return ""
    files = [path for part in run.section("data") for path in run.section("data", part, "files")]
    notes = []
    for folder in dict.fromkeys(Path(path).parent for path in files):
        try:
            words = (folder / "ATTRIBUTION").read_text(encoding="utf-8").split()
            notes.append(re.sub("https?://", "", " ".join(words)))
        except (OSError, UnicodeDecodeError):
            continue
    return "".join(f'<p class="hint attribution">{escape(note)}</p>' for note in notes)


def configuration_html(run: RunView) -> str:
    """The command, the keys that differ from the defaults, and all keys."""
    from mix_core.config import RunConfig

    keys = run.section("configuration")
    defaults = RunConfig().model_dump(mode="json")
    set_here = [(name, _value(value)) for name, value in keys.items() if value != defaults.get(name)]
    command = run.record.get("command")
    parts = []
    if isinstance(command, list):
        parts.append(f"<pre>{escape(shlex.join(map(str, command)))}</pre>")
    if set_here:
        parts.append("<h3>Set for this run</h3>" + _pairs(set_here))
    everything = _pairs((name, _value(value)) for name, value in keys.items())
    return "".join(parts) + _folded("Configuration", f"all {len(keys)} keys", everything if keys else "")


def device_html(run: RunView) -> str:
    """Every setting with its reason, and which kernel served which operator."""
    device = run.section("device")
    settings = [
        (row.get("name"), row.get("value"), row.get("reason"), row.get("source"), row.get("stage"))
        for row in _dicts(device.get("settings"))
    ]
    used = dict.fromkeys(
        (row.get("op"), row.get("dtype"), row.get("kernel"), row.get("reason"))
        for row in _dicts(device.get("kernels"))
    )
    own = sum(kernel != "reference" for _, _, kernel, _ in used)
    chosen = _joined(device.get("distribution"), device.get("origin") and f"choice: {device['origin']}")
    return _folded(
        "Device settings",
        _joined(len(settings), chosen),
        _table(("name", "value", "reason", "source", "stage"), settings, code=(0, 1)),
    ) + _folded(
        "Operators",
        f"{own} of {len(used)} with a kernel of the device's own",
        _table(("operator", "dtype", "kernel", "reason"), used, code=(0, 2)),
    )


def versions_html(run: RunView) -> str:
    """Versions of the software, and checksums of the data."""
    versions = [(name, _value(version)) for name, version in run.section("versions").items()]
    files = [
        (part, path, str(checksum)[:16], _counted(run.section("data", part).get("rows"), "rows"))
        for part in run.section("data")
        for path, checksum in run.section("data", part, "files").items()
    ]
    return _folded("Versions", "", _pairs(versions) if versions else "") + _folded(
        "Data files", str(len(files)), _table(("part", "file", "sha256", "rows"), files, code=(1, 2))
    )


def footer_html(run: RunView) -> str:
    version = run.section("versions").get("mix-core")
    made = _joined(f"mix-core {version}" if version else "mix-core", _clock(run.record.get("ended")))
    return f"<footer>{escape(made)}</footer>"


def _folded(title: str, note: str, content: str) -> str:
    """A section that opens on a click; "" without content."""
    if not content:
        return ""
    return f'<details><summary>{title} <span class="hint">{escape(note)}</span></summary>{content}</details>'


def _table(heads: Sequence[str], rows: Iterable[Sequence[Any]], code: Sequence[int] = ()) -> str:
    body = []
    for row in rows:
        cells = []
        for i, (head, cell) in enumerate(zip(heads, row)):
            text = escape("unset" if cell is None else str(cell))
            cells.append(
                f'<td data-head="{head}">{f"<code>{text}</code>" if i in code and text else text}</td>'
            )
        body.append(f"<tr>{''.join(cells)}</tr>")
    if not body:
        return ""
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    return f'<table class="list"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'


def _pairs(pairs: Iterable[tuple[str, str]]) -> str:
    items = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in pairs)
    return f'<dl class="pairs">{items}</dl>'


def _value(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False)
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _duration(run: RunView) -> str:
    """By the clock; for a run without an end, what its steps add up to."""
    if run.seconds is not None:
        return duration(run.seconds)
    in_steps_s = sum(value for _, value in run.points("step_ms")) / 1e3
    return f"{duration(in_steps_s)} so far" if in_steps_s else ""


def _rows_of(run: RunView, part: str) -> str:
    rows = run.section("data", part).get("rows")
    return _counted(rows, {"train": "rows", "eval": "held out"}[part]) if rows else ""


def _steps(run: RunView) -> str:
    last, total = run.record.get("last_step"), run.record.get("steps")
    if last is None and run.metrics:
        last = run.metrics[-1].get("step")
    if not is_number(total):
        return _counted(last, "step" if last == 1 else "steps")
    return f"{total:,} steps" if last == total else f"{last or 0:,} of {total:,} steps"


def _clock(time: Any) -> str:
    """2026-11-21T10:05:43+0000 -> 2026-11-21 10:05 +0000."""
    return f"{time[:10]} {time[11:16]} {time[19:]}".strip() if isinstance(time, str) else ""


def _counted(value: Any, unit: str) -> str:
    return f"{count(value)} {unit}" if is_number(value) else ""


def _joined(*parts: Any) -> str:
    return " · ".join(str(part) for part in parts if part)


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _none(text: str) -> str:
    return f'<p class="none">{text}</p>'
