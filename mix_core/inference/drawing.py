"""Boxes of an answer on the picture, with labels that can be read on any background. Imports no paddle.

A line has a dark edge on both sides, so that it shows on its own colour too; a label stands on a filled
strip, and strips keep clear of each other where there is room.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

from mix_core.inference.grounding import GRID, Box

MIN_SHOWN_PIXELS = 512
# Okabe and Ito's palette: told apart by colour-blind readers, and visible on light and dark pictures.
COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#d55e00", "#cc79a7", "#0072b2", "#f0e442")
FONTS = (
    *("NotoSansCJK-Regular.ttc", "NotoSerifCJK-Bold.ttc", "NotoSerifCJK-Regular.ttc"),
    *("wqy-zenhei.ttc", "wqy-microhei.ttc", "DroidSansFallbackFull.ttf"),
    *(
        "DejaVuSans.ttf",
        "NotoSans-Regular.ttf",
        "LiberationSans-Regular.ttf",
        "arial.ttf",
        "Arial Unicode.ttf",
    ),
)
"""Fonts of the system that are tried for letters that Pillow's own lacks."""
EDGE = "#101010"

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Rectangle = tuple[float, float, float, float]


def colour_of(label: str) -> str:
    """The same label has the same colour in every picture and every run."""
    return COLOURS[zlib.crc32(label.encode()) % len(COLOURS)]


@lru_cache(maxsize=64)
def _system_font(name: str, size: int) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


def _has_letters(font: Font, text: str) -> bool:
    """Whether the font has a glyph of its own for each letter; a missing one looks like a code nobody has."""
    missing = bytes(font.getmask("\U0010ffff"))
    return all(one.isspace() or bytes(font.getmask(one)) != missing for one in set(text))


def font_for(text: str, size: int) -> Font | None:
    """A font of that pixel size that has all letters of a text; None where this machine has none."""
    own = ImageFont.load_default(size)
    if text.isascii() or _has_letters(own, text):
        return own
    found = (_system_font(name, size) for name in FONTS)
    return next((font for font in found if font is not None and _has_letters(font, text)), None)


def shown_labels(boxes: Sequence[Box]) -> list[str]:
    """What is written at each box: its label on one line, or its number where no font here has its
    letters."""
    labels = [" ".join(box.label.split()) for box in boxes]
    return [
        label if not label or font_for(label, 16) is not None else f"#{number}"
        for number, label in enumerate(labels, 1)
    ]


def enlarge(image: Image.Image, min_pixels: int = MIN_SHOWN_PIXELS) -> Image.Image:
    """A small picture by a whole factor, pixels kept sharp, so that its longer side is about `min_pixels`."""
    factor = -(-min_pixels // max(image.size)) if max(image.size) < min_pixels else 1
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def draw(image: Image.Image, boxes: Iterable[Box], *, min_pixels: int = MIN_SHOWN_PIXELS) -> Image.Image:
    """A copy of `image` with the boxes and their labels on it; a small picture is enlarged first."""
    boxes = list(boxes)
    shown = enlarge(image.convert("RGB"), min_pixels)
    canvas = ImageDraw.Draw(shown)
    line = max(2, round(min(shown.size) / 130))
    text_pixels = max(12, round(min(shown.size) / 28))
    for box in boxes:
        _outline(canvas, _corner_points(box, shown.size), colour_of(box.label), line)
    taken: list[Rectangle] = []
    for box, label in zip(boxes, shown_labels(boxes)):
        if label:
            points = _corner_points(box, shown.size)
            taken.append(_label(canvas, label, points, colour_of(box.label), text_pixels, taken))
    return shown


def _corner_points(box: Box, size: tuple[int, int]) -> list[tuple[float, float]]:
    """Corners in pixels, inside the picture; a box without extent gets a pixel of it."""
    width, height = size
    if box.quad:
        return [(min(width - 1, x * width / GRID), min(height - 1, y * height / GRID)) for x, y in box.quad]
    left, top = box.x1 * width / GRID, box.y1 * height / GRID
    right = min(width - 1, max(left + 1, box.x2 * width / GRID))
    bottom = min(height - 1, max(top + 1, box.y2 * height / GRID))
    left, top = min(left, right), min(top, bottom)
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _outline(canvas: ImageDraw.ImageDraw, points: list[tuple[float, float]], colour: str, line: int) -> None:
    closed = [*points, points[0], points[1]]
    canvas.line(closed, fill=EDGE, width=line + 2 * max(1, line // 2), joint="curve")
    canvas.line(closed, fill=colour, width=line, joint="curve")


def _label(
    canvas: ImageDraw.ImageDraw,
    label: str,
    points: list[tuple[float, float]],
    colour: str,
    text_pixels: int,
    taken: list[Rectangle],
) -> Rectangle:
    """Write a label on a filled strip and return where."""
    font = font_for(label, text_pixels) or ImageFont.load_default(text_pixels)
    width, height = canvas.im.size
    room = text_pixels / 3
    text = _cut(canvas, label, font, width - 2 * room)
    strip = (canvas.textlength(text, font=font) + 2 * room, round(text_pixels * 1.4))
    place = _free_place(strip, points, (width, height), taken)
    canvas.rectangle(place, fill=colour, outline=EDGE)
    at = (place[0] + room, (place[1] + place[3]) / 2)
    canvas.text(at, text, fill=_text_colour(colour), font=font, anchor="lm")
    return place


def _text_colour(background: str) -> str:
    """Black or white, whichever has the greater contrast (relative luminance as WCAG 2 defines it)."""
    shares = [int(background[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    luminance = sum(part * weight for part, weight in zip(linear, (0.2126, 0.7152, 0.0722)))
    return "white" if (1.05 / (luminance + 0.05)) > (luminance + 0.05) / 0.05 else "black"


def _cut(canvas: ImageDraw.ImageDraw, label: str, font: Font, width: float) -> str:
    """The label, or as much of its beginning as fits, with three dots."""
    if canvas.textlength(label, font=font) <= width:
        return label
    fits = 0
    while fits < len(label) and canvas.textlength(label[: fits + 1] + "...", font=font) <= width:
        fits += 1
    return label[:fits] + "..."


def _free_place(
    strip: tuple[float, float],
    points: list[tuple[float, float]],
    size: tuple[int, int],
    taken: list[Rectangle],
) -> Rectangle:
    """Above the box, below it, inside it, or as near as there is room: the first place that covers no
    label."""
    wide, high = strip
    xs, ys = [x for x, _ in points], [y for _, y in points]
    left, right, top, bottom = min(xs), max(xs), min(ys), max(ys)
    wanted = [(x, y) for y in (top - high, bottom, top, bottom - high) for x in (left, right - wide)]
    wanted += [(left, top + step * side * high) for step in range(2, 20) for side in (1, -1)]
    inside = []
    for x, y in wanted:
        x, y = max(0.0, min(x, size[0] - 1 - wide)), max(0.0, min(y, size[1] - 1 - high))
        inside.append((x, y, x + wide, y + high))
    first = [place for place in inside[:1] if top >= high] + inside[2:] + inside[:2]
    return min(first, key=lambda place: sum(_overlap(place, other) for other in taken))


def _overlap(a: Rectangle, b: Rectangle) -> float:
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return wide * high if wide > 0 and high > 0 else 0.0
