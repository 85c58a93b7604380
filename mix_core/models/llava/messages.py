"""Messages as LLaVA's templates take them, and where their answers end. Imports no paddle."""

from __future__ import annotations

from typing import Any

from mix_core.errors import DataError
from mix_core.models.common.chat_template import ChatTemplate
from mix_core.models.common.supervision import Span, learned_spans

Messages = list[dict[str, Any]]


def as_parts(messages: Messages) -> Messages:
    """The messages with lists of {"type": "text" | "image", ...} as content.

    llava-hf's templates look for parts of a type and drop everything else without a word. Raises DataError
    for a part that is neither.
    """
    return [{**message, "content": _parts(message.get("content"))} for message in messages]


def _parts(content: Any) -> list[dict[str, Any]]:
    if content is None or isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return [_part(part) for part in content]


def _part(part: Any) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    kind = part.get("type") or next((key for key in ("image", "image_url", "video") if key in part), "text")
    if kind == "image_url":
        given = part["image_url"]
        return {"type": "image", "image": given["url"] if isinstance(given, dict) else given}
    if kind not in ("image", "text"):
        raise DataError(f"a message part has the type {kind!r}; LLaVA takes text and images")
    return {**part, "type": kind}


def find_images(messages: Messages) -> list[Any]:
    """Sources of the pictures of `as_parts`' messages, in the order in which templates write them."""
    images = []
    for message in messages:
        for part in message["content"]:
            if part["type"] != "image":
                continue
            source = next((part[key] for key in ("image", "url", "path") if part.get(key) is not None), None)
            if source is None:
                raise DataError(
                    "a message part of type image names no image; expected a key 'image', 'path' or 'url'"
                )
            images.append(source)
    return images


def supervised_text(
    template: ChatTemplate,
    messages: Messages,
    *,
    end_token: str,
    stop_texts: tuple[str, ...],
    train_on_prompt: bool,
    mask_history: bool,
) -> tuple[str, list[Span]]:
    """`learned_spans`, with an end token after each answer.

    llava-hf's vicuna templates close an answer with a blank only, so a model trained on their text would
    never learn to stop. Where a template writes no end token, one takes the place of the blanks after the
    answer; that is the text LLaVA was trained on (conversation form vicuna_v1).
    """
    options = dict(train_on_prompt=train_on_prompt, mask_history=mask_history)
    text, spans = learned_spans(template, messages, stop_texts=stop_texts, **options)
    if not any(message.get("role") == "assistant" for message in messages):
        return text, spans
    _, turns = learned_spans(template, messages, stop_texts=stop_texts)
    pieces, ended, done, length = [], [], 0, 0
    for start, end in turns:
        answer = text[start:end]
        if not answer.endswith(stop_texts):
            answer = answer.rstrip() + end_token
        before = text[done:start]
        pieces += [before, answer]
        ended.append((length + len(before), length + len(before) + len(answer)))
        done, length = end, ended[-1][1]
    pieces.append(text[done:])
    text = "".join(pieces)
    if train_on_prompt:
        return text, [(0, len(text))]
    return text, ended[-1:] if mask_history else ended
