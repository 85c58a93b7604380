"""Boxes: parsing never fails, writing and parsing agree, IoU has its properties."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mix_core.inference.grounding import Box, iou, match_score, parse_boxes

coordinate = st.integers(0, 999)
label = st.text(st.characters(blacklist_characters="<>", blacklist_categories=("Cs",)), max_size=12).map(
    str.strip
)


@st.composite
def boxes(draw_value) -> Box:
    x1, x2 = sorted((draw_value(coordinate), draw_value(coordinate)))
    y1, y2 = sorted((draw_value(coordinate), draw_value(coordinate)))
    return Box(draw_value(label), x1, y1, x2, y2)


@given(
    st.lists(boxes(), max_size=5), st.text(st.characters(blacklist_characters="<>()[]{}（）"), max_size=20)
)
def test_what_is_written_is_read_back(written, between):
    text = between.join(str(box) for box in written)
    read = parse_boxes(text)
    assert [box.corners for box in read] == [box.corners for box in written]
    carried = ""  # a box without a ref of its own belongs to the ref before it
    for got, put in zip(read, written, strict=True):
        carried = put.label or carried
        assert got.label == carried


@given(st.text(st.sampled_from('<>/()[]{},:. -0123456789refboxdqua_|"\n\\（，）'), max_size=120))
def test_no_text_breaks_the_parser(text):
    for box in parse_boxes(text, seen_size=(640, 480)):
        assert 0 <= box.x1 <= box.x2 < 1000 and 0 <= box.y1 <= box.y2 < 1000


@given(boxes(), st.integers(0, 60))
def test_a_cut_off_answer_gives_no_half_box(box, cut):
    text = str(box)
    read = parse_boxes(text[: max(0, len(text) - cut)])
    assert read == [] or read[0].corners == box.corners


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<ref>cat</ref><box>(1,2),(3,4)</box>", [Box("cat", 1, 2, 3, 4)]),
        ("<box>(1,2),(3,4)</box>", [Box("", 1, 2, 3, 4)]),
        ("<box> ( 1 , 2 ) , ( 3 , 4 ) </box>", [Box("", 1, 2, 3, 4)]),
        ("<box>(30,40),(1,2)</box>", [Box("", 1, 2, 30, 40)]),
        ("<box>(-5,2),(3,1000)</box>", [Box("", 0, 2, 3, 999)]),
        ("<box>(1.6,2),(3,4.2)</box>", [Box("", 2, 2, 3, 4)]),
        ("<box>（1，2），（3，4）</box>", [Box("", 1, 2, 3, 4)]),
        ("<box>(1,2),(3,4)", [Box("", 1, 2, 3, 4)]),
        (
            "<ref>a</ref><box>(1,2),(3,4)</box><box>(5,6),(7,8)</box>",
            [Box("a", 1, 2, 3, 4), Box("a", 5, 6, 7, 8)],
        ),
        ("<ref>a</ref> and <ref>b</ref><box>(1,2),(3,4)</box>", [Box("b", 1, 2, 3, 4)]),
        (
            "<|object_ref_start|>猫<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|><|im_end|>",
            [Box("猫", 1, 2, 3, 4)],
        ),
        ("<box>(1,2),(3</box>", []),
        ("<ref>cat</ref><box>[[1, 2, 30, 40]]</box>", [Box("cat", 1, 2, 30, 40)]),
        ("<box>[[1,2,3,4], [5,6,7,8]]</box>", [Box("", 1, 2, 3, 4), Box("", 5, 6, 7, 8)]),
        (
            "<ref>sign</ref><quad>(10,20),(30,18),(32,40),(9,44)</quad>",
            [Box("sign", 9, 18, 32, 44, ((10, 20), (30, 18), (32, 40), (9, 44)))],
        ),
        (
            "<|quad_start|>(0,0),(1200,0),(9,9),(0,9)<|quad_end|><box>(1,2),(3,4)</box>",
            [Box("", 0, 0, 999, 9, ((0, 0), (999, 0), (9, 9), (0, 9))), Box("", 1, 2, 3, 4)],
        ),
        ("<quad>(1,2),(3,4),(5,6)</quad>", []),
        ("<box>nothing</box> (1,2),(3,4)", []),
        ("(1,2),(3,4)", []),
        ("", []),
    ],
)
def test_forms(text, expected):
    assert parse_boxes(text) == expected


def test_json_form_counts_in_the_pixels_that_the_model_saw():
    answer = "```json\n" + json.dumps([{"bbox_2d": [56, 28, 280, 140], "label": 'the "7"'}]) + "\n```"
    assert parse_boxes(answer) == []
    assert parse_boxes(answer, seen_size=(560, 280)) == [Box('the "7"', 100, 100, 500, 500)]


def test_quads_are_written_as_they_are_read():
    text = "<ref>a</ref><quad>(10,20),(30,18),(32,40),(9,44)</quad>"
    assert [str(box) for box in parse_boxes(text)] == [text]


@given(boxes(), boxes())
def test_iou_properties(a, b):
    value = iou(a.corners, b.corners)
    assert 0.0 <= value <= 1.0
    assert value == iou(b.corners, a.corners)
    if a.x1 < a.x2 and a.y1 < a.y2:
        assert iou(a.corners, a.corners) == 1.0
    if a.x2 <= b.x1 or a.y2 <= b.y1:
        assert value == 0.0


def test_iou_by_hand():
    assert iou((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(50 / 150)


def test_match_score_charges_missing_and_superfluous_boxes():
    one, two = (0, 0, 10, 10), (20, 20, 30, 30)
    assert match_score([one], [one]) == 1.0
    assert match_score([two, one], [one, two]) == 1.0
    assert match_score([one], [one, two]) == 0.5
    assert match_score([one, two], [one]) == 0.5
    assert match_score([], [one]) == 0.0
    assert match_score([], []) == 1.0
    assert match_score([one, one], [one, two]) == 0.5  # a truth is matched once
