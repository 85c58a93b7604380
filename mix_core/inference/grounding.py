"""Boxes in a model's answer: read them, compare them. Imports no paddle.

The written form is Qwen-VL's, `<ref>the cat</ref><box>(x1,y1),(x2,y2)</box>`, with coordinates in [0, 1000)
of the picture's width and height; `<quad>` has four corners in its place. Other forms are read as well:
InternVL2's `<box>[[x1, y1, x2, y2]]</box>`, Qwen2-VL's special tokens (`<|object_ref_start|>`,
`<|box_start|>`, `<|quad_start|>`) and Qwen2.5-VL's JSON (`"bbox_2d": [x1, y1, x2, y2]`), whose coordinates
are pixels of the picture as the model saw it, so that it needs that picture's size.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

GRID = 1000

_NUMBER = r"\s*(-?\d{1,9}(?:\.\d{0,9})?)\s*"
_POINT = rf"[\(（\[]{_NUMBER}[,，]{_NUMBER}[\)）\]]"
_CORNERS = re.compile(rf"{_POINT}\s*[,，]?\s*{_POINT}")
_REF = re.compile(r"(?:<ref>|<\|object_ref_start\|>)(.*?)(?:</ref>|<\|object_ref_end\|>)", re.DOTALL)
_FLAT = re.compile(rf"\[{_NUMBER}[,，]{_NUMBER}[,，]{_NUMBER}[,，]{_NUMBER}\]")
_QUAD = re.compile(rf"{_POINT}\s*[,，]?\s*{_POINT}\s*[,，]?\s*{_POINT}\s*[,，]?\s*{_POINT}")
_AREA = re.compile(
    r"(?:<(box|quad)>|<\|(box|quad)_start\|>)(.*?)"
    r"(?:</(?:box|quad)>|<\|(?:box|quad)_end\|>|(?=<box>|<quad>|<\|box_start\|>|<\|quad_start\|>|<ref>)|$)",
    re.DOTALL,
)
_JSON_OBJECT = re.compile(r"\{[^{}]*\}")
_JSON_BOX = re.compile(rf'"bbox_2d"\s*:\s*\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]')
_JSON_LABEL = re.compile(r'"label"\s*:\s*"((?:[^"\\]|\\.)*)"')
_MARKUP = re.compile(r"</?(?:ref|box|quad)>|<\|(?:object_ref|box|quad)_(?:start|end)\|>")


@dataclass(frozen=True)
class Box:
    """A labelled rectangle: `x1 <= x2`, `y1 <= y2`, all in [0, 1000). The label may be empty."""

    label: str
    x1: int
    y1: int
    x2: int
    y2: int
    quad: tuple[tuple[int, int], ...] = ()
    """Four corners in the order written, of a `<quad>`; the rectangle is then the one around them."""

    @property
    def corners(self) -> tuple[int, int, int, int]:
        return self.x1, self.y1, self.x2, self.y2

    def __str__(self) -> str:
        ref = f"<ref>{self.label}</ref>" if self.label else ""
        if self.quad:
            return f"{ref}<quad>{','.join(f'({x},{y})' for x, y in self.quad)}</quad>"
        return f"{ref}<box>({self.x1},{self.y1}),({self.x2},{self.y2})</box>"


def _box(label: str, numbers: Sequence[float]) -> Box:
    """Corners in any order and out of range, brought into order and range."""
    x1, y1, x2, y2 = (min(GRID - 1, max(0, round(n))) for n in numbers)
    return Box(label, min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))


def parse_boxes(text: str, *, seen_size: tuple[int, int] | None = None) -> list[Box]:
    """All boxes in `text`, in order; a `<box>` takes the label of the `<ref>` before it.

    Text that is not a complete box (a cut-off answer, missing numbers, words) gives no box and no error.

    Args:
        seen_size: (width, height) in pixels of the picture that the model saw; without it the JSON form,
            which counts in those pixels, is left out.
    """
    boxes: list[Box] = []
    refs = [(match.end(), _MARKUP.sub("", match.group(1)).strip()) for match in _REF.finditer(text)]
    for match in _AREA.finditer(text):
        before = [label for end, label in refs if end <= match.start()]
        label = before[-1] if before else ""
        boxes += _areas(match[1] or match[2], match[3], label)
    if seen_size is not None and not boxes:
        boxes = _parse_json_boxes(text, seen_size)
    return boxes


def _areas(kind: str, text: str, label: str) -> Iterator[Box]:
    """The boxes or quads written between a pair of marks."""
    if kind == "quad":
        for found in _QUAD.finditer(text):
            numbers = [min(GRID - 1, max(0, round(float(n)))) for n in found.groups()]
            xs, ys = numbers[::2], numbers[1::2]
            yield Box(label, min(xs), min(ys), max(xs), max(ys), tuple(zip(xs, ys)))
        return
    for corners in [*_CORNERS.finditer(text), *_FLAT.finditer(text)]:
        yield _box(label, [float(n) for n in corners.groups()])


def _parse_json_boxes(text: str, seen_size: tuple[int, int]) -> list[Box]:
    width, height = seen_size
    boxes = []
    for entry in _JSON_OBJECT.finditer(text):
        found = _JSON_BOX.search(entry.group())
        if found is None:
            continue
        x1, y1, x2, y2 = (float(n) for n in found.groups())
        label = _JSON_LABEL.search(entry.group())
        scaled = (x1 * GRID / width, y1 * GRID / height, x2 * GRID / width, y2 * GRID / height)
        boxes.append(_box(label.group(1).replace('\\"', '"') if label else "", scaled))
    return boxes


def area(corners: Sequence[float]) -> float:
    x1, y1, x2, y2 = corners
    return max(0.0, x2 - x1) * max(0.0, y2 - y1)


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two (x1, y1, x2, y2), in [0, 1]; 0 where the union has no area."""
    overlap = area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
    union = area(a) + area(b) - overlap
    return overlap / union if union > 0 else 0.0


def match_score(answer: Sequence[Sequence[float]], truth: Sequence[Sequence[float]]) -> float:
    """Mean IoU of an answer's boxes with the true ones, each used once, the best pairs first.

    The sum is divided by the larger of the two counts, so a missing box and a superfluous one both cost.
    With one box on either side it is their IoU; with none on both sides it is 1.
    """
    if not answer or not truth:
        return 1.0 if not answer and not truth else 0.0
    pairs = sorted(
        ((iou(a, t), i, j) for i, a in enumerate(answer) for j, t in enumerate(truth)),
        key=lambda pair: (-pair[0], pair[1], pair[2]),
    )
    used_answers: set[int] = set()
    used_truths: set[int] = set()
    total = 0.0
    for value, i, j in pairs:
        if i not in used_answers and j not in used_truths:
            used_answers.add(i)
            used_truths.add(j)
            total += value
    return total / max(len(answer), len(truth))
