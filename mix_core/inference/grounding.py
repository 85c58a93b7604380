"""Boxes in a model's answer: read them, compare them, draw them. Imports no paddle.

The written form is Qwen-VL's, `<ref>the cat</ref><box>(x1,y1),(x2,y2)</box>`, with coordinates in [0, 1000)
of the picture's width and height. Two later forms are read as well: Qwen2-VL's special tokens
(`<|object_ref_start|>`, `<|box_start|>`) and Qwen2.5-VL's JSON (`"bbox_2d": [x1, y1, x2, y2]`), whose
coordinates are pixels of the picture as the model saw it, so that it needs that picture's size.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

GRID = 1000
MIN_SHOWN_PIXELS = 512
# Okabe and Ito's palette: told apart by colour-blind readers, and visible on light and dark pictures.
COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#d55e00", "#cc79a7", "#0072b2", "#f0e442")
CJK_FONTS = ("NotoSansCJK-Regular.ttc", "wqy-zenhei.ttc", "wqy-microhei.ttc", "DroidSansFallbackFull.ttf")

_NUMBER = r"\s*(-?\d{1,9}(?:\.\d{0,9})?)\s*"
_POINT = rf"[\(（\[]{_NUMBER}[,，]{_NUMBER}[\)）\]]"
_CORNERS = re.compile(rf"{_POINT}\s*[,，]?\s*{_POINT}")
_REF = re.compile(r"(?:<ref>|<\|object_ref_start\|>)(.*?)(?:</ref>|<\|object_ref_end\|>)", re.DOTALL)
_BOX = re.compile(
    r"(?:<box>|<\|box_start\|>)(.*?)(?:</box>|<\|box_end\|>|(?=<box>|<\|box_start\|>|<ref>)|$)", re.DOTALL
)
_JSON_OBJECT = re.compile(r"\{[^{}]*\}")
_JSON_BOX = re.compile(rf'"bbox_2d"\s*:\s*\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]')
_JSON_LABEL = re.compile(r'"label"\s*:\s*"((?:[^"\\]|\\.)*)"')
_MARKUP = re.compile(r"</?(?:ref|box)>|<\|(?:object_ref|box)_(?:start|end)\|>")


@dataclass(frozen=True)
class Box:
    """A labelled rectangle: `x1 <= x2`, `y1 <= y2`, all in [0, 1000). The label may be empty."""

    label: str
    x1: int
    y1: int
    x2: int
    y2: int

    @property
    def corners(self) -> tuple[int, int, int, int]:
        return self.x1, self.y1, self.x2, self.y2

    def __str__(self) -> str:
        ref = f"<ref>{self.label}</ref>" if self.label else ""
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
    for match in _BOX.finditer(text):
        before = [label for end, label in refs if end <= match.start()]
        for corners in _CORNERS.finditer(match.group(1)):
            boxes.append(_box(before[-1] if before else "", [float(n) for n in corners.groups()]))
    if seen_size is not None and not boxes:
        boxes = _parse_json_boxes(text, seen_size)
    return boxes


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


def colour_of(label: str) -> str:
    """The same label has the same colour in every picture and every run."""
    return COLOURS[zlib.crc32(label.encode()) % len(COLOURS)]


def _font(label: str, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """A font of that pixel size; for text beyond Latin a system font that has it, if there is one."""
    if not label.isascii():
        for name in CJK_FONTS:
            try:
                return ImageFont.truetype(name, size)
            except OSError:
                continue
    return ImageFont.load_default(size)


def enlarge(image: Image.Image, min_pixels: int = MIN_SHOWN_PIXELS) -> Image.Image:
    """A small picture by a whole factor, pixels kept sharp, so that its longer side is about `min_pixels`."""
    factor = -(-min_pixels // max(image.size)) if max(image.size) < min_pixels else 1
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def draw(image: Image.Image, boxes: Iterable[Box], *, min_pixels: int = MIN_SHOWN_PIXELS) -> Image.Image:
    """A copy of `image` with the boxes and their labels on it; a small picture is enlarged first."""
    shown = enlarge(image.convert("RGB"), min_pixels)
    canvas = ImageDraw.Draw(shown)
    width, height = shown.size
    line = max(2, round(min(width, height) / 160))
    text_pixels = max(12, round(min(width, height) / 28))
    for box in boxes:
        colour = colour_of(box.label)
        left, top = box.x1 * width / GRID, box.y1 * height / GRID
        right = min(width - 1, max(left + 1, box.x2 * width / GRID))
        bottom = min(height - 1, max(top + 1, box.y2 * height / GRID))
        canvas.rectangle((min(left, right), min(top, bottom), right, bottom), outline=colour, width=line)
        if box.label:
            _draw_label(canvas, box.label, (left, top, bottom), colour, text_pixels)
    return shown


def _draw_label(
    canvas: ImageDraw.ImageDraw, label: str, at: tuple[float, float, float], colour: str, text_pixels: int
) -> None:
    """The label on a filled strip: above the box, or below where there is no room, and inside the picture."""
    left, top, bottom = at
    width, height = canvas.im.size
    font = _font(label, text_pixels)
    text = label.replace("\n", " ")
    text_width = canvas.textlength(text, font=font)
    strip = round(text_pixels * 1.4)
    y = top - strip if top >= strip else min(bottom, height - strip)
    x = max(0.0, min(left, width - text_width - 8))
    canvas.rectangle((x, y, x + text_width + 8, y + strip), fill=colour)
    dark = sum(int(colour[i : i + 2], 16) * w for i, w in ((1, 0.3), (3, 0.59), (5, 0.11))) < 140
    canvas.text((x + 4, y + strip / 2), text, fill="white" if dark else "black", font=font, anchor="lm")
