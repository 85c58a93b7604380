"""Text in pieces: joined it is the whole text, characters are never broken, stop strings are never shown."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mix_core.errors import BadInputError
from mix_core.inference.streaming import StopStrings, TextStream, check_stop_strings, cut_at
from tests.builders.tokenizer import write_tokenizer


def byte_decode(ids: list[int]) -> str:
    """Every token is a byte: the hardest case for characters."""
    return bytes(ids).decode("utf-8", errors="replace")


def word_decode(ids: list[int]) -> str:
    """As sentencepiece decoders do: a token begins with a blank, which the first one of a text loses."""
    return "".join(f" w{i}" for i in ids).removeprefix(" ")


def pieces(stream: TextStream, ids: list[int]) -> list[str]:
    return [*(stream.feed(token) for token in ids), stream.flush()]


@given(st.text(max_size=30))
def test_bytes_come_out_as_whole_characters(text):
    got = pieces(TextStream(byte_decode), list(text.encode("utf-8", errors="surrogatepass")))
    assert "".join(got) == text.encode("utf-8", errors="surrogatepass").decode("utf-8", errors="replace")
    if "\ufffd" not in "".join(got):
        assert all(piece in text for piece in got)


@given(st.lists(st.integers(0, 255), max_size=40))
def test_any_bytes_come_out_as_when_decoded_at_once(ids):
    assert "".join(pieces(TextStream(byte_decode), ids)) == byte_decode(ids)


@given(st.lists(st.integers(0, 9), max_size=10))
def test_decoders_that_treat_the_first_token_otherwise(ids):
    assert "".join(pieces(TextStream(word_decode), ids)) == word_decode(ids)


@given(st.text("ab<stop>", max_size=30), st.lists(st.text("ab<stop>", min_size=1, max_size=4), max_size=3))
@example("<a<", ["a", "<a<"])
def test_stop_strings_are_never_shown(text, stop):
    stream = TextStream(byte_decode, stop)
    got = "".join(pieces(stream, list(text.encode())))
    ends = (n for n in range(len(text) + 1) if any(one in text[:n] for one in stop))
    assert (got, stream.stopped) == cut_at(
        text[: next(ends, len(text))], stop
    )  # nothing comes after the first stop


def test_only_what_may_be_a_stop_string_is_held_back():
    stream = TextStream(byte_decode, ["END"])
    assert [stream.feed(ord(c)) for c in "aEbEN"] == ["a", "", "Eb", "", ""]
    assert stream.flush() == "EN" and not stream.stopped


def test_a_real_tokenizer(tmp_path):
    tokenizer = write_tokenizer(tmp_path)
    text = "读数字 7 — naïve 😀, done"
    ids = tokenizer.encode(text).ids
    stream = TextStream(lambda ids: tokenizer.decode(ids, skip_special_tokens=True))
    got = pieces(stream, ids)
    assert "".join(got) == text
    assert "😀" in got or any("😀" in piece for piece in got)
    assert len([piece for piece in got if piece]) > 5


@given(st.text("abé字", max_size=20), st.text("abé字", min_size=1, max_size=3))
def test_stop_is_seen_at_the_token_that_completes_it(text, stop):
    watch = StopStrings([stop], byte_decode)
    met_at = next((i for i, b in enumerate(text.encode()) if watch.met(b)), None)
    place = text.find(stop)
    assert met_at == (None if place < 0 else len(text[: place + len(stop)].encode()) - 1)


def test_an_empty_stop_string_is_refused():
    assert check_stop_strings("ab") == ("ab",)
    assert check_stop_strings(["a", "b"]) == ("a", "b")
    with pytest.raises(BadInputError, match="empty"):
        check_stop_strings(["a", ""])
