"""What a user hands over, in the one form that processors take: a list of Hugging Face chat messages.

Imports no paddle and opens no file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from mix_core.errors import DataError

Message = dict[str, Any]
Part = dict[str, Any]

KINDS = ("image", "video")
_MARKER = re.compile(r"<(image|video)>")


def is_batch(messages: Any) -> bool:
    """Whether `messages` is several conversations: a list whose entries are texts or lists of messages."""
    return isinstance(messages, (list, tuple)) and all(isinstance(m, (str, list, tuple)) for m in messages)


def conversation(
    messages: str | Sequence[Message], images: Sequence[Any] = (), videos: Sequence[Any] = ()
) -> list[Message]:
    """One conversation whose every picture and video stands at its place.

    Args:
        messages: a text (one user turn) or messages. `<image>` and `<video>` in a user's text, and parts
            {"type": "image"} that name no picture, are places for the pictures and videos given.
        images, videos: sources in the order of those places; without any place for their kind they stand at
            the beginning of the user's turn.
    Raises:
        DataError: places and pictures (or videos) differ in number, a message is not of the form
            {"role", "content"}, or there are several user turns and no place.
    """
    turns = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
    if not turns:
        raise DataError("the conversation is empty; give at least one user message")
    turns = [_with_parts(turn, number) for number, turn in enumerate(turns, 1)]
    for kind, given in (("image", images), ("video", videos)):
        _put(turns, kind, list(given))
    return turns


def text_of(message: Message) -> str:
    """The text parts of a message, joined."""
    content = message["content"]
    parts = [{"text": content}] if isinstance(content, str) else content
    return "".join(part.get("text") or "" for part in parts)


def _with_parts(turn: Any, number: int) -> Message:
    """A copy of a message whose content is a list of parts, markers in a user's text taken apart."""
    if not isinstance(turn, dict) or "role" not in turn or not isinstance(turn.get("content"), (str, list)):
        raise DataError(
            f'message {number} is {_short(turn)}; expected {{"role": "user", "content": text or parts}}'
        )
    content = turn["content"]
    if turn["role"] != "user" and isinstance(content, str):
        return dict(turn)
    parts: list[Part] = []
    for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
        if not isinstance(part, dict):
            raise DataError(f"message {number} has the part {_short(part)}; expected a dict with a type")
        is_text = turn["role"] == "user" and isinstance(part.get("text"), str)
        parts += _split(part["text"]) if is_text else [dict(part)]
    return {**turn, "content": parts}


def _split(text: str) -> list[Part]:
    """Text with markers as text and empty places, in order."""
    pieces = _MARKER.split(text)  # text, kind, text, kind, ..., text
    parts = [{"type": "text" if i % 2 == 0 else piece, "text": piece} for i, piece in enumerate(pieces)]
    return [
        part if part["type"] == "text" else {"type": part["type"]}
        for part in parts
        if part["type"] != "text" or part["text"]
    ] or [{"type": "text", "text": ""}]


def _put(turns: list[Message], kind: str, given: list[Any]) -> None:
    places = [part for turn in turns for part in _parts(turn) if _is_place(part, kind)]
    if not places and given:
        users = [turn for turn in turns if turn["role"] == "user"]
        if len(users) != 1:
            raise DataError(
                f"{len(given)} {kind}(s) given for a conversation of {len(users)} user turns; say where they "
                f'belong with <{kind}> in the text or a part {{"type": "{kind}"}}'
            )
        parts = users[0]["content"]
        own = sum(1 for part in parts if part.get("type") in KINDS)  # after pictures that stand in front
        users[0]["content"] = [
            *parts[:own],
            *({"type": kind} | _named(kind, one) for one in given),
            *parts[own:],
        ]
        return
    if len(places) != len(given):
        raise DataError(
            f"the text has {len(places)} {kind} placeholder(s) and {len(given)} {kind}(s) were given; "
            "the numbers must be equal"
        )
    for part, source in zip(places, given):
        part |= _named(kind, source)


def _named(kind: str, source: Any) -> Part:
    """What a part says of its picture; a video may come as {"video": source, "fps": 2.0}."""
    return source if isinstance(source, dict) else {kind: source}


def _parts(turn: Message) -> list[Part]:
    return turn["content"] if isinstance(turn["content"], list) else []


def _is_place(part: Part, kind: str) -> bool:
    return part.get("type") == kind and not any(part.get(key) for key in (kind, "url", "path"))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
