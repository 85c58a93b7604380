"""The report's held-out pictures: each with question, answer, truth, a mark, and boxes drawn over it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
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
LONG_ANSWER = 12
"""Answers with more characters than this are written small."""

PICKS = {
    "sample": ("A fair sample", "Evenly spaced over the held-out rows of each task."),
    "mistake": ("Mistakes", "The lowest scores among the rows not shown above."),
    "made": (
        "Generated pictures",
        "Made by the model from the prompt; of digits the first few of each and all that a classifier, "
        "trained on the real ones, named otherwise.",
    ),
}


def gallery_html(run: RunView) -> str:
    """All cards with their filters, by pick and task; "" where the run has no gallery."""
    if not run.gallery:
        return ""
    parts = [_filters()]
    for pick, (title, meaning) in PICKS.items():
        groups: dict[str, list[Card]] = {}
        for entry in run.gallery:
            if (entry.get("pick") or "sample") == pick:
                groups.setdefault(str(entry.get("task") or ""), []).append(Card(run.folder, entry))
        if groups:
            parts.append(f'<section class="picks"><h3>{title}</h3><p class="hint">{meaning}</p>')
            parts += [_group(task, cards) for task, cards in groups.items()]
            parts.append("</section>")
    return "".join(parts)


def _group(task: str, cards: Sequence[Card]) -> str:
    """The cards of one task; wide pictures get wide cards."""
    right = sum(card.is_right for card in cards)
    hint = f"{right} of {len(cards)} right" if right else ""
    legend = ""
    if any(card.has_boxes for card in cards):
        hint += f", from an IoU of {GOOD_IOU}" if right else ""
        legend = (
            '<span class="legend"><span class="key box-truth"></span>truth'
            '<span class="key box-answer"></span>answer</span>'
        )
    broad = " broad" if sum(card.shape > 2 for card in cards) * 2 > len(cards) else ""
    shown = "".join(card.html() for card in cards)
    return (
        f'<div class="group"><h4>{escape(task or "all tasks")} <span class="hint">{hint}</span>{legend}</h4>'
        f'<div class="cards{broad}">{shown}</div></div>'
    )


def _filters() -> str:
    """Shown by the page's script, which they need."""
    return (
        '<div class="filters" hidden><button type="button" aria-pressed="true">All</button>'
        '<button type="button" aria-pressed="false" data-wrong="1">Wrong only</button></div>'
    )


class Card:
    """One held-out row with the model's answer, from an entry of gallery.json."""

    def __init__(self, folder: Path, entry: dict[str, Any]) -> None:
        self.entry = entry
        name = entry.get("image")
        self.picture = _data_uri(folder, name) if isinstance(name, str) else None
        self.score = float(entry["score"]) if is_number(entry.get("score")) else None
        self.has_boxes = bool(entry.get("boxes_truth"))
        self.is_right = (self.score or 0.0) >= (GOOD_IOU if self.has_boxes else 1.0)

    @property
    def shape(self) -> float:
        """Width over height."""
        return self.picture[1] / self.picture[2] if self.picture else 1.0

    def html(self) -> str:
        word, sign = ("right", "✓") if self.is_right else ("wrong", "✗")
        text = "no score" if self.score is None else f"IoU {self.score:.2f}" if self.has_boxes else word
        question, answer, truth = (self._text(name) for name in ("question", "answer", "truth"))
        long = " long" if max(len(answer), len(truth)) > LONG_ANSWER else ""
        true = f'<p class="true">truth <b>{escape(truth)}</b></p>' if answer != truth else ""
        said = (
            f'<p class="said"><b>{escape(answer or "(nothing)")}</b>'
            f'<span class="mark {word}"><span aria-hidden="true">{sign}</span> {text}</span></p>'
        )
        if self.entry.get("pick") == "made" and not answer:
            word, said = "right", ""  # nobody judged it
        return (
            f'<article class="card {word}{long}">{self._frame()}<div class="words">'
            f'<p class="question">{escape(question)}</p>{said}{true}</div></article>'
        )

    def _text(self, name: str) -> str:
        value = self.entry.get(name)
        return "" if value is None else str(value)

    def _frame(self) -> str:
        """The picture, with its boxes over it."""
        if self.picture is None:
            name = self.entry.get("image")
            return (
                f'<div class="frame none">{f"{escape(str(name))} is missing" if name else "no picture"}</div>'
            )
        uri, width, height = self.picture
        sharp = " sharp" if max(width, height) < PIXELATED_BELOW else ""
        alt = escape(f"{self._text('task') or 'held-out'} picture, {width} by {height} pixels")
        boxes = _rectangles(self.entry.get("boxes_truth"), "box-truth")
        boxes += _rectangles(self.entry.get("boxes_answer"), "box-answer")
        drawn = (
            f'<svg viewBox="0 0 {GRID} {GRID}" preserveAspectRatio="none" aria-hidden="true">{boxes}</svg>'
            if boxes
            else ""
        )
        return (
            f'<div class="frame"><div class="fit" style="aspect-ratio:{width}/{height};'
            f'--shape:{width / height:.4f}"><img class="picture{sharp}" src="{uri}" alt="{alt}" '
            f'width="{width}" height="{height}">{drawn}</div></div>'
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
