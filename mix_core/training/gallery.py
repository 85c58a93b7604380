"""The pictures of a run's report: `gallery.json` and `gallery/*.png`.

Three quarters are a fair sample of the held-out rows, evenly spaced over each task; one quarter are the worst
mistakes, so that they can be looked at.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from mix_core.data.images import load_image
from mix_core.inference.conversation import text_of

if TYPE_CHECKING:
    from mix_core.inference.grounding import Box
    from mix_core.training.evaluate import Marked

JSON_NAME = "gallery.json"
FOLDER = "gallery"
MAX_SIDE_PIXELS = 768
"""Larger pictures are made smaller, so that the report stays a file that one can send."""


def write_gallery(run_dir: Path, marked: Sequence[Marked], size: int) -> None:
    """Write at most `size` pictures with their questions and answers into the run folder."""
    folder = run_dir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    entries = []
    for number, (pick, one) in enumerate(choose(marked, size)):
        name = _write_picture(run_dir, number, one)
        entries.append(_entry(name, pick, one))
    beside = run_dir / f".{JSON_NAME}.new"
    beside.write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(beside, run_dir / JSON_NAME)


def choose(marked: Sequence[Marked], size: int) -> list[tuple[str, Marked]]:
    """(`sample` or `mistake`, answer) of the rows to show, each row at most once."""
    by_task: dict[str, list[int]] = {}
    for i, one in enumerate(marked):
        by_task.setdefault(one.metric, []).append(i)
    share = max(1, (size - size // 4) // max(1, len(by_task)))
    sample = _in_turn(_evenly(rows, share) for rows in by_task.values())[:size]
    shown = set(sample)
    worst = _in_turn(
        sorted(
            (i for i in rows if i not in shown and marked[i].score < 1), key=lambda i: (marked[i].score, i)
        )
        for rows in by_task.values()
    )
    return [("sample", marked[i]) for i in sample] + [
        ("mistake", marked[i]) for i in worst[: max(0, min(size // 4, size - len(sample)))]
    ]


def _evenly(rows: list[int], count: int) -> list[int]:
    """`count` of `rows` at equal distances, or all."""
    if len(rows) <= count:
        return rows
    return [rows[i * len(rows) // count] for i in range(count)]


def _in_turn(groups: Iterable[list[int]]) -> list[int]:
    """One of each group, then the second of each, and so on."""
    return [i for turn in zip_longest(*groups) for i in turn if i is not None]


def _write_picture(run_dir: Path, number: int, one: Marked) -> str | None:
    """Save the row's first picture; its name in the run folder, None for a row without any."""
    source = next((source for message in one.question.prompt for source in _pictures(message)), None)
    if source is None:
        return None
    picture = load_image(source)
    if max(picture.size) > MAX_SIDE_PIXELS:
        picture.thumbnail((MAX_SIDE_PIXELS, MAX_SIDE_PIXELS), Image.Resampling.LANCZOS)
    name = f"{FOLDER}/{number:03d}.png"
    picture.save(run_dir / name)
    return name


def _pictures(message: dict[str, Any]) -> list[Any]:
    parts = message["content"] if isinstance(message["content"], list) else []
    return [part["image"] for part in parts if isinstance(part, dict) and part.get("image") is not None]


def _entry(name: str | None, pick: str, one: Marked) -> dict[str, Any]:
    questions = [message for message in one.question.prompt if message["role"] == "user"]
    return {
        "image": name,
        "task": one.question.task,
        "question": text_of(questions[-1]).strip() if questions else "",
        "answer": one.answer,
        "truth": one.question.truth,
        "boxes_answer": _corners(one.answer_boxes),
        "boxes_truth": _corners(one.question.truth_boxes),
        "score": round(one.score, 4),
        "pick": pick,
    }


def _corners(boxes: Sequence[Box]) -> list[list[int]]:
    return [list(box.corners) for box in boxes]
