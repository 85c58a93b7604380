"""Chat messages to what Qwen-VL's templates take: texts, with a mark where each picture stands."""

from __future__ import annotations

import unicodedata
from typing import Any

from mix_core.errors import DataError
from mix_core.models.qwen_vl.list_format import (
    PLACE,
    check_boxes,
    check_no_picture,
    is_numbered,
    numbered,
    split_pictures,
)

Message = dict[str, Any]


def written(messages: list[Message], *, lists: bool) -> tuple[list[Message], list[Any]]:
    """The messages with texts as their contents, and the sources of their pictures in order.

    A picture stands where its part stands, or where a user's text has `<img>source</img>`. With `lists` a
    part becomes a line of its own, `Picture k: <img>...</img>`, k counting over the conversation, unless the
    text before it ends in such a number. Raises DataError for a video, for tags that are not closed and for
    pictures in another's turn than the user's.
    """
    sources: list[Any] = []
    texts: list[Message] = []
    for message in messages:
        text = ""
        for part in _parts(message):
            kind, value = _kind_and_value(part)
            if kind == "image":
                if message.get("role") != "user":
                    raise DataError(f"a message of {message.get('role')} has a picture; only a user's can")
                sources.append(value)
                listed = lists and not is_numbered(text)
                text += f"{numbered(len(sources))}{PLACE}\n" if listed else PLACE
            elif message.get("role") == "user":
                pieces, found = split_pictures(value)
                sources += found
                text += PLACE.join(pieces)
            else:
                check_no_picture(value)
                text += value
        texts.append({**message, "content": unicodedata.normalize("NFC", text)})
    return texts, sources


def check_grounding(messages: list[Message]) -> None:
    """Raise DataError for a box outside of the picture, whoever names it."""
    for message in messages:
        for part in _parts(message):
            if isinstance(part.get("text"), str):
                check_boxes(part["text"])


def _parts(message: Message) -> list[dict[str, Any]]:
    content = message.get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        return content
    raise DataError(
        f"a message has {type(content).__name__} as its content, expected a text or message parts"
    )


def _kind_and_value(part: dict[str, Any]) -> tuple[str, Any]:
    """("text", text) or ("image", source)."""
    kinds = ("text", "image", "image_url", "video")
    kind = part.get("type") or next((key for key in kinds if key in part), None)
    if kind == "text" and isinstance(part.get("text"), str):
        return "text", part["text"]
    if kind == "image_url":
        given = part["image_url"]
        return "image", given["url"] if isinstance(given, dict) else given
    if kind == "image":
        for key in ("image", "url", "path"):
            if part.get(key) is not None:
                return "image", part[key]
        raise DataError(
            "a message part of type image names no image; expected a key 'image', 'path' or 'url'"
        )
    if kind == "video":
        raise DataError("a message has a video; Qwen-VL takes pictures only, give single frames as pictures")
    raise DataError(f"a message part has the type {kind!r}, expected text, image or image_url")
