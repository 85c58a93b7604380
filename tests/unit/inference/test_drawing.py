"""Drawing: ink where the box is, labels inside, readable and apart, letters of every script or a number."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import mix_core.inference.drawing as drawing
from mix_core.inference.drawing import EDGE, colour_of, draw, shown_labels
from mix_core.inference.grounding import Box, parse_boxes


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def pixels_of(shown: Image.Image, colour: str) -> np.ndarray:
    return (np.asarray(shown) == rgb(colour)).all(-1)


@pytest.mark.parametrize("size", [(8, 8), (1, 1), (3, 40), (640, 480), (2000, 1)])
def test_drawing_enlarges_small_pictures_and_marks_the_edges(size):
    image = Image.new("L", size, 0)
    box = Box("a 7", 250, 250, 750, 750)
    shown = draw(image, [box])
    assert shown.mode == "RGB" and max(shown.size) >= 512
    assert shown.width % size[0] == 0 and shown.height % size[1] == 0
    assert image.getextrema() == (0, 0), "the given picture is not touched"
    assert pixels_of(shown, colour_of("a 7"))[min(shown.height - 1, shown.height // 2)].any()


def test_label_stays_inside_the_picture():
    for corners in [(0, 0, 10, 10), (990, 990, 999, 999), (0, 0, 999, 999), (999, 0, 999, 999)]:
        shown = draw(Image.new("RGB", (600, 600)), [Box("a rather long label", *corners)])
        assert pixels_of(shown, colour_of("a rather long label")).sum() > 600, corners


def test_colours_do_not_depend_on_the_process():
    assert colour_of("cat") == colour_of("cat")
    assert [colour_of(name) for name in ("7", "cat", "")] == ["#cc79a7", "#0072b2", "#e69f00"]


@pytest.fixture
def placed(monkeypatch) -> list[tuple[float, float, float, float]]:
    """Where labels are put, as they are drawn."""
    found = []
    free_place = drawing._free_place

    def spy(*arguments):
        found.append(free_place(*arguments))
        return found[-1]

    monkeypatch.setattr(drawing, "_free_place", spy)
    return found


@pytest.mark.parametrize("background", ["#000000", "#ffffff", "#808080", *drawing.COLOURS])
def test_every_label_contrasts_with_its_strip_on_any_background(background, placed):
    labels = {colour_of(str(i) * 4): str(i) * 4 for i in range(60)}
    assert set(labels) == set(drawing.COLOURS)
    for colour, label in labels.items():
        shown = draw(Image.new("RGB", (600, 400), background), [Box(label, 300, 300, 600, 700)])
        x1, y1, x2, y2 = map(round, placed[-1])
        strip = np.asarray(shown)[y1 + 2 : y2 - 1, x1 + 2 : x2 - 1] / 255.0
        linear = np.where(strip <= 0.04045, strip / 12.92, ((strip + 0.055) / 1.055) ** 2.4)
        light = linear @ (0.2126, 0.7152, 0.0722)
        contrast = (light.max() + 0.05) / (light.min() + 0.05)
        assert contrast > 4.5, f"{colour}: the contrast that WCAG asks of text"


def test_a_line_shows_on_its_own_colour():
    shown = draw(Image.new("RGB", (600, 400), colour_of("")), [Box("", 300, 300, 600, 700)])
    assert pixels_of(shown, EDGE).sum() > 500


def test_labels_of_near_boxes_do_not_cover_each_other(placed):
    boxes = [Box(f"person {i}", 80 + i * 40, 300 + (i % 3) * 10, 200 + i * 40, 600) for i in range(16)]
    draw(Image.new("RGB", (800, 600), "white"), boxes)
    overlaps = [drawing._overlap(a, b) for i, a in enumerate(placed) for b in placed[:i]]
    assert len(placed) == 16 and sum(overlaps) == 0
    assert all(0 <= x1 < x2 <= 800 and 0 <= y1 < y2 <= 600 for x1, y1, x2, y2 in placed)


def test_a_quad_is_drawn_along_its_corners():
    (box,) = parse_boxes("<quad>(500,100),(900,500),(500,900),(100,500)</quad>")
    marked = pixels_of(draw(Image.new("RGB", (600, 600), "white"), [box]), colour_of(""))
    assert marked[60:64, 298:303].any() and marked[178:183, 418:424].any(), "on its edges"
    assert not marked[50:100, 50:100].any() and not marked[290:310, 290:310].any(), (
        "a rectangle's corner, the middle"
    )


def test_a_long_label_is_cut_and_lines_are_joined():
    shown = draw(Image.new("RGB", (512, 300)), [Box("x" * 400 + "\nsecond", 10, 500, 300, 900)])
    assert shown.size == (512, 300) and pixels_of(shown, colour_of("x" * 400 + "\nsecond")).any()
    assert shown_labels([Box("two\nlines", 0, 0, 9, 9)]) == ["two lines"]


def test_letters_that_no_font_here_has_become_the_boxs_number(monkeypatch):
    boxes = [Box("cat", 0, 0, 9, 9), Box("巴士", 0, 0, 9, 9), Box("", 0, 0, 9, 9)]
    monkeypatch.setattr(drawing, "FONTS", ())
    assert shown_labels(boxes) == ["cat", "#2", ""]
    draw(Image.new("RGB", (600, 400)), boxes)
