"""The report's held-out pictures: each with question, answer, truth, a mark, and boxes drawn over it."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from mix_core.training.report_view import RunView, is_number

GRID = 1000
"""Boxes are written in [0, 1000) of the picture."""
PIXELATED_BELOW = 256
"""Pictures with a longer side below this are shown with sharp pixels."""
GOOD_IOU = 0.5

PICKS = {
    "sample": ("A fair sample", "Evenly spaced over the held-out rows of each task."),
    "mistake": ("Mistakes", "The lowest scores among the rows not shown above."),
}


def gallery_html(run: RunView) -> str:
    """All cards with their filters; "" where the run has no gallery."""
    if not run.gallery:
        return ""
    tasks = list(dict.fromkeys(str(e["task"]) for e in run.gallery if e.get("task")))
    parts = [_filters(tasks), _legend(run.gallery)]
    for pick, (title, meaning) in PICKS.items():
        entries = [entry for entry in run.gallery if (entry.get("pick") or "sample") == pick]
        if entries:
            cards = "".join(_card(run.folder, entry) for entry in entries)
            parts.append(f'<section class="picks"><h3>{title}</h3><p class="hint">{meaning}</p>')
            parts.append(f'<div class="cards">{cards}</div></section>')
    return "".join(parts)


def _filters(tasks: Sequence[str]) -> str:
    names = [("", "All"), *((task, task) for task in tasks)] if len(tasks) > 1 else [("", "All")]
    buttons = [
        f'<button type="button" data-task="{escape(task)}" aria-pressed="{str(not task).lower()}">'
        f"{escape(name)}</button>"
        for task, name in names
    ]
    wrong = '<button type="button" data-wrong="1" aria-pressed="false">Wrong only</button>'
    return f'<div class="filters" hidden>{"".join(buttons)}<span class="gap"></span>{wrong}</div>'


def _legend(entries: Iterable[dict[str, Any]]) -> str:
    if not any(entry.get("boxes_truth") or entry.get("boxes_answer") for entry in entries):
        return ""
    return (
        '<p class="legend"><span class="key box-truth"></span>truth'
        '<span class="key box-answer"></span>answer</p>'
    )


def _card(folder: Path, entry: dict[str, Any]) -> str:
    score = float(entry["score"]) if is_number(entry.get("score")) else 0.0
    has_boxes = bool(entry.get("boxes_truth"))
    good = score >= GOOD_IOU if has_boxes else score >= 1
    word, sign = ("right", "✓") if good else ("wrong", "✗")
    text = f"IoU {score:.2f}" if has_boxes else word
    answer, truth = str(entry.get("answer", "")), str(entry.get("truth", ""))
    rows = [("answer", answer or "(nothing)")]
    if answer != truth:
        rows.append(("truth", truth))
    facts = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in rows)
    return (
        f'<article class="card {word}" data-task="{escape(str(entry.get("task") or ""))}">'
        f"{_picture(folder, entry)}"
        f'<div class="words"><p class="question">{escape(str(entry.get("question", "")))}</p>'
        f'<dl>{facts}</dl><p class="mark {word}"><span aria-hidden="true">{sign}</span> {text}</p>'
        "</div></article>"
    )


def _picture(folder: Path, entry: dict[str, Any]) -> str:
    name = entry.get("image")
    if not isinstance(name, str):
        return '<div class="frame none">no picture</div>'
    found = _data_uri(folder, name)
    if found is None:
        return f'<div class="frame none">{escape(name)} is missing</div>'
    uri, width, height = found
    sharp = " sharp" if max(width, height) < PIXELATED_BELOW else ""
    alt = escape(f"{entry.get('task') or 'held-out'} picture, {width} by {height} pixels")
    boxes = _rectangles(entry.get("boxes_truth"), "box-truth") + _rectangles(
        entry.get("boxes_answer"), "box-answer"
    )
    drawn = (
        f'<svg viewBox="0 0 {GRID} {GRID}" preserveAspectRatio="none" aria-hidden="true">{boxes}</svg>'
        if boxes
        else ""
    )
    return (
        '<div class="frame">'
        f'<div class="fit" style="aspect-ratio:{width}/{height};--shape:{width / height:.4f}">'
        f'<img class="picture{sharp}" src="{uri}" alt="{alt}" width="{width}" height="{height}">{drawn}'
        "</div></div>"
    )


def _data_uri(folder: Path, name: str) -> tuple[str, int, int] | None:
    """(data URI, width, height) of a picture inside the run folder; None where there is none that opens."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        return None
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content), formats=("PNG",)) as picture:
            width, height = picture.size
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
        return None
    return f"data:image/png;base64,{base64.b64encode(content).decode()}", width, height


def _rectangles(boxes: Any, css_class: str) -> str:
    """SVG rectangles of boxes that are four numbers; others are left out."""
    out = []
    for box in boxes if isinstance(boxes, list) else []:
        if isinstance(box, list) and len(box) == 4 and all(is_number(edge) for edge in box):
            x1, y1, x2, y2 = box
            width, height = max(1, x2 - x1), max(1, y2 - y1)
            out.append(
                f'<rect class="{css_class}" x="{x1:g}" y="{y1:g}" width="{width:g}" height="{height:g}"/>'
            )
    return "".join(out)
