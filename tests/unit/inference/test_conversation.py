"""What users hand over becomes messages in which every picture has its place, or an error with counts."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mix_core.errors import DataError
from mix_core.inference.conversation import conversation, is_batch


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def picture(source: str) -> dict[str, str]:
    return {"type": "image", "image": source}


def test_a_text_is_one_user_turn_with_its_pictures_in_front():
    (turn,) = conversation("which one?", ["a.png", "b.png"], ["c.mp4"])
    assert turn["role"] == "user"
    clip = {"type": "video", "video": "c.mp4"}
    assert turn["content"] == [picture("a.png"), picture("b.png"), clip, text("which one?")]


def test_markers_are_places():
    (turn,) = conversation("is <image> like <image>?", ["a.png", "b.png"])
    assert turn["content"] == [text("is "), picture("a.png"), text(" like "), picture("b.png"), text("?")]


def test_places_in_parts_and_own_pictures():
    turns = [
        {"role": "system", "content": "be brief about <image>"},
        {"role": "user", "content": [picture("own.png"), {"type": "image"}, text("first")]},
        {"role": "assistant", "content": "<image> is a word here"},
        {"role": "user", "content": "<image>second"},
    ]
    before = copy.deepcopy(turns)
    got = conversation(turns, ["a.png", "b.png"])
    assert turns == before, "the caller's messages stay as they are"
    assert got[1]["content"] == [picture("own.png"), picture("a.png"), text("first")]
    assert got[3]["content"] == [picture("b.png"), text("second")]
    assert got[0] == turns[0] and got[2] == turns[2]


def test_a_video_with_options():
    clip = {"video": "c.mp4", "fps": 1.0}
    placed = {"type": "video", **clip}
    assert conversation("what?", videos=[clip])[0]["content"][0] == placed
    assert conversation("what <video>", videos=[clip])[0]["content"][1] == placed


def test_an_empty_text_with_a_picture():
    assert conversation("", ["a.png"])[0]["content"] == [picture("a.png"), text("")]


@given(st.integers(0, 4), st.integers(0, 4))
def test_places_and_pictures_that_differ_in_number(places, given):
    prompt = "x" + "<image>" * places
    if places in (0, given):
        conversation(prompt, ["a.png"] * given)
    else:
        with pytest.raises(DataError, match=rf"{places} image placeholder\(s\) and {given} image\(s\)"):
            conversation(prompt, ["a.png"] * given)


def test_several_user_turns_need_a_place():
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    with pytest.raises(DataError, match="2 user turns; say where"):
        conversation(turns, ["a.png"])


@pytest.mark.parametrize(
    "messages", [[], [{"role": "user"}], [{"content": "a"}], ["a"], [{"role": "user", "content": ["a"]}], [3]]
)
def test_other_forms_are_refused_in_one_line(messages):
    with pytest.raises(DataError) as error:
        conversation(messages)
    assert "\n" not in str(error.value)


def test_what_a_batch_is():
    turn = {"role": "user", "content": "a"}
    assert is_batch([[turn], [turn]]) and is_batch(["a", "b"]) and is_batch([])
    assert not is_batch("a") and not is_batch([turn])
