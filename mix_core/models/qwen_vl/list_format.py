"""Qwen-VL's way of writing pictures and boxes into text, and reading them out of it.

A text is a list of elements, {"image": source}, {"text": ...}, {"ref": ..., "box": ...}, for the functions
published as `from_list_format` and `to_list_format`. In a text a picture is `<img>source</img>`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from mix_core.errors import DataError
from mix_core.models.qwen_vl.tokenizer import IMAGE_END, IMAGE_PAD, IMAGE_START

PLACE = IMAGE_START + IMAGE_PAD + IMAGE_END
"""A picture in a text that goes to the tokenizer: its pad token is then repeated."""

GRID = 1000
"""Coordinates of boxes are whole thousandths of the picture's width and height."""

_PICTURE = re.compile(re.escape(IMAGE_START) + "(.*?)" + re.escape(IMAGE_END), re.DOTALL)
_NUMBERED = re.compile(r"Picture \d+:[ ]?$")
_ELEMENT = re.compile(r"<(img|ref|box|quad)>(.*?)</\1>", re.DOTALL)
_OPEN = re.compile(r"<(img|ref|box|quad)>")
_KEYS = {"img": "image"}
_BOX = re.compile(r"<box>(.*?)</box>", re.DOTALL)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def from_list_format(elements: Sequence[dict[str, Any]]) -> str:
    """The text of elements: pictures numbered from 1, each on a line of its own; boxes after their name.

    A box is (x1, y1, x2, y2) in [0, 1000); an element may hold several. Raises DataError for an element of
    another kind.
    """
    text, pictures = "", 0
    for element in elements:
        if "image" in element:
            pictures += 1
            text += f"{numbered(pictures)}{IMAGE_START}{element['image']}{IMAGE_END}\n"
        elif "text" in element:
            text += element["text"]
        elif "box" in element:
            text += f"<ref>{element['ref']}</ref>" if "ref" in element else ""
            boxes = element["box"]
            if isinstance(boxes, str):  # as `to_list_format` gives it
                text += f"<box>{boxes}</box>"
                continue
            for x1, y1, x2, y2 in boxes:
                text += f"<box>({x1:.0f},{y1:.0f}),({x2:.0f},{y2:.0f})</box>"
        elif "ref" in element or "quad" in element:
            key = "ref" if "ref" in element else "quad"
            text += f"<{key}>{element[key]}</{key}>"
        else:
            raise DataError(f"an element has the keys {', '.join(element)}; expected image, text, ref, box")
    return text


def to_list_format(text: str) -> list[dict[str, str]]:
    """The elements of a text: image, ref, box and quad by what stands between their tags, text for the rest.

    Raises DataError where a tag is not closed.
    """
    elements: list[dict[str, str]] = []
    done = 0
    for match in _ELEMENT.finditer(text):
        _add_text(elements, text[done : match.start()])
        elements.append({_KEYS.get(match[1], match[1]): match[2]})
        done = match.end()
    _add_text(elements, text[done:])
    return elements


def _add_text(elements: list[dict[str, str]], text: str) -> None:
    if opened := _OPEN.search(text):
        raise DataError(f"{opened[0]} is not closed by </{opened[1]}> in {_short(text[opened.start() :])!r}")
    if text:
        elements.append({"text": text})


def numbered(picture: int) -> str:
    """What stands before a picture that is listed."""
    return f"Picture {picture}: "


def is_numbered(text: str) -> bool:
    """Whether a text ends in the number of the picture that follows."""
    return _NUMBERED.search(text) is not None


def split_pictures(text: str) -> tuple[list[str], list[str]]:
    """A text cut at its pictures: the pieces around them (one more than pictures), and the sources.

    Raises DataError where an <img> is not closed, or a closing tag or a pad token stands alone.
    """
    pieces, sources, done = [], [], 0
    for match in _PICTURE.finditer(text):
        pieces.append(text[done : match.start()])
        sources.append(match[1].strip())
        done = match.end()
    pieces.append(text[done:])
    for piece in pieces:
        check_no_picture(piece)
    for source in sources:
        if IMAGE_START in source:
            check_no_picture(IMAGE_START + source)
    return pieces, sources


def check_no_picture(text: str) -> None:
    """Raise DataError where a text has a part of a picture's tags."""
    for tag, reason in (
        (IMAGE_START, f"is not closed by {IMAGE_END}"),
        (IMAGE_END, f"closes no {IMAGE_START}"),
        (IMAGE_PAD, "stands outside of a picture"),
    ):
        if (at := text.find(tag)) >= 0:
            raise DataError(f"{tag} {reason}, in {_short(text[at:])!r}; a picture is written <img>path</img>")


def check_boxes(text: str) -> None:
    """Raise DataError for a box with a coordinate outside [0, 1000)."""
    for box in _BOX.finditer(text):
        for number in _NUMBER.findall(box[1]):
            if not 0 <= float(number) < GRID:
                raise DataError(
                    f"{_short(box[0])} has the coordinate {number}; coordinates count thousandths of the "
                    f"picture's width and height, in [0, {GRID})"
                )


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."
