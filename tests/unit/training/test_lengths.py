"""Estimates of a row's length from text and picture headers, without decoding a picture."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from mix_core.training.lengths import UNKNOWN_VISUAL, about_length


def row(content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


def test_text_counts_by_its_bytes():
    assert about_length(row("abcdefgh")) == 2
    assert about_length(row([{"type": "text", "text": "图片里有"}])) == 3


def test_pictures_count_by_their_area(tmp_path):
    path = tmp_path / "a.png"
    Image.new("L", (280, 56)).save(path)
    path.write_bytes(path.read_bytes()[:60])  # the header alone: nothing is decoded
    asked = row([{"type": "image", "image": str(path)}, {"type": "text", "text": "abcd"}])
    assert about_length(asked) == 20 + 1
    assert about_length(asked, max_pixels=784 * 5) == 5 + 1
    assert about_length(row([{"type": "image", "image": Image.new("L", (28, 28))}])) == 1


@pytest.mark.parametrize("source", ["https://example.com/a.png", "gone.png", ["f0.png", "f1.png"]])
def test_what_is_not_seen_has_a_round_number(source):
    assert about_length(row([{"type": "image", "image": source}])) == UNKNOWN_VISUAL
    assert about_length(row([{"type": "video", "video": source}])) == UNKNOWN_VISUAL
