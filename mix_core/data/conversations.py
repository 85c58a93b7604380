"""One row of a data set, in any of the known forms, to Hugging Face chat messages.

LLaVA      {"image": path, "conversations": [{"from": "human" | "gpt", "value": "<image>\\n..."}]}
Qwen-VL    {"conversations": [{"from": "user" | "assistant", "value": "Picture 1: <img>path</img>\\n..."}]}
ChatML     {"image": path, "conversations": [["<image>\\n...", answer], ...]} (PaddleMIX's chatml_dataset)
messages   {"images": [...], "videos": [...], "messages": [{"role": ..., "content": "<image>..." or parts}]}
caption    {"image": path, "caption": text or list of texts}
VQA        {"image": path, "question": text, "answer": text or list of texts}

The form is read from the row. `<ref>` and `<box>` are text like any other, but a box must lie in [0, 1000).
An image stands where its placeholder stands; placeholders and images must be equal in number. Of several
captions the first is learned, of several answers the most frequent.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mix_core.errors import DataError

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}

_PLACEHOLDER = re.compile(r"<(image|video)>")
_INLINE_IMAGE = re.compile(r"<img>((?:(?!<img>)[^\n])*?)</img>")
_BOX = re.compile(r"<box>\s*\((-?\d+)\s*,\s*(-?\d+)\)\s*,\s*\((-?\d+)\s*,\s*(-?\d+)\)\s*</box>")
BOX_END = 1000
_ADDRESS = re.compile(r"(?:https?|data):", re.IGNORECASE)

Part = dict[str, Any]


class Visuals:
    """The images and videos that a row lists, given out in order where its text asks for them."""

    def __init__(self, row: dict[str, Any], root: Path) -> None:
        self.root = root
        self.given = {"image": _listed(row, "image"), "video": _listed(row, "video")}
        self.taken = {"image": 0, "video": 0}

    def next_part(self, kind: str, extra: Part | None = None) -> Part:
        place = self.taken[kind]
        self.taken[kind] = place + 1
        # One placeholder too many is reported with both counts, once all are counted.
        source = self.given[kind][place] if place < len(self.given[kind]) else None
        return {**(extra or {}), **self.part(kind, source)}

    def part(self, kind: str, source: Any) -> Part:
        """A message part for one source; a list of frames is a video too."""
        if isinstance(source, dict):
            inner = next((source[key] for key in (kind, "path", "url") if source.get(key)), None)
            options = {key: source[key] for key in ("fps", "num_frames") if key in source}
            return {"type": kind, kind: self._located(inner), **options}
        return {"type": kind, kind: self._located(source)}

    def _located(self, source: Any) -> Any:
        if isinstance(source, list):
            return [self._located(one) for one in source]
        if not isinstance(source, str) or _ADDRESS.match(source):
            return source
        return os.path.normpath(self.root / source)

    def check_counts(self) -> None:
        for kind, given in self.given.items():
            if self.taken[kind] != len(given):
                listed = "" if given else f" (the row has no key {kind} or {kind}s)"
                raise DataError(
                    f"{self.taken[kind]} <{kind}> placeholder(s) and {len(given)} {kind}(s){listed}; "
                    "the numbers must be equal"
                )


def read_messages(row: Any, root: Path, *, prompt: str = "Describe the image.") -> list[dict[str, Any]]:
    """Chat messages of one row; relative paths start at `root`. `prompt` is what a caption answers.

    Raises DataError (without the row's place, which the caller knows) for a row of no known form, an unknown
    role, a key that is missing, `<img>` without `</img>`, a box outside [0, 1000), and placeholders that do
    not match images or videos.
    """
    if not isinstance(row, dict):
        raise DataError(f"a row is {_kind(row)}, expected an object with messages or conversations")
    turns = row.get("messages", row.get("conversations"))
    if turns is None and ("caption" in row or "question" in row):
        turns = _asked(row, prompt)
    if not isinstance(turns, list) or not turns:
        keys = ", ".join(map(str, row)) or "none"
        raise DataError(f"no list of messages or conversations; the row's keys are {keys}")
    visuals = Visuals(row, root)
    messages = []
    for number, turn in enumerate(_in_roles(turns), 1):
        try:
            messages.append(_message(turn, visuals))
        except DataError as error:
            raise DataError(f"turn {number}: {error}") from None
    visuals.check_counts()
    return messages


def _asked(row: dict[str, Any], prompt: str) -> list[Any]:
    """The two turns of a caption or a question with its answer."""
    asked, key = (row["question"], "answer") if "question" in row else (prompt, "caption")
    if key not in row:
        raise DataError(f'the key "{key}" is missing; the row\'s keys are {", ".join(map(str, row))}')
    found = row[key] if isinstance(row[key], list) else [row[key]]
    if not isinstance(asked, str) or not found or not all(isinstance(text, str) for text in found):
        raise DataError(f"question and {key} must be texts, or a list of texts for the {key}")
    answer = max(found, key=found.count) if key == "answer" else found[0]  # max: of equals the first
    places = "".join("<image>" for _ in _listed(row, "image"))
    return [{"role": "user", "content": places + asked}, {"role": "assistant", "content": answer}]


def _in_roles(turns: list[Any]) -> list[Any]:
    """Pairs of question and answer become two turns each; a last pair may lack its answer."""
    if not all(isinstance(turn, list) for turn in turns):
        return turns
    found = []
    for number, pair in enumerate(turns, 1):
        if not 1 <= len(pair) <= 2:
            raise DataError(
                f"pair {number} of conversations has {len(pair)} texts, expected question and answer"
            )
        found += [{"from": who, "value": text} for who, text in zip(("user", "assistant"), pair)]
    return found


def local_files(messages: list[dict[str, Any]]) -> list[str]:
    """Paths of the files that messages name."""
    found: list[str] = []
    for message in messages:
        if isinstance(message["content"], list):
            for part in message["content"]:
                source = part.get(part["type"])
                sources = source if isinstance(source, list) else [source]
                if part["type"] != "text":
                    found += [one for one in sources if isinstance(one, str) and not _ADDRESS.match(one)]
    return found


def _message(turn: Any, visuals: Visuals) -> dict[str, Any]:
    if not isinstance(turn, dict):
        raise DataError(f"a turn is {_kind(turn)}, expected an object with role and content")
    for key, other in (("role", "from"), ("content", "value")):
        if key not in turn and other not in turn:
            wanted = other if "from" in turn or "value" in turn else key
            keys = ", ".join(map(str, turn)) or "none"
            raise DataError(f'the key "{wanted}" is missing; the turn\'s keys are {keys}')
    name = turn.get("role", turn.get("from"))
    if not isinstance(name, str) or name not in ROLES:
        raise DataError(f"a turn has the role {name!r}, expected one of {', '.join(ROLES)}")
    content = turn.get("content", turn.get("value"))
    role = ROLES[name]
    if isinstance(content, list):
        return {"role": role, "content": [_part(part, visuals) for part in content]}
    if not isinstance(content, str):
        raise DataError(f"a turn of {name} has {_kind(content)} as its text, expected text")
    _check_boxes(content)
    if role == "assistant":  # an answer places no images: what looks like a placeholder is its text
        return {"role": role, "content": content}
    parts: list[Part] = []
    for piece in _pieces(content, inline="from" in turn and name == "user"):
        if isinstance(piece, str):
            parts.append({"type": "text", "text": piece})
        elif piece[1] is None:
            parts.append(visuals.next_part(piece[0]))
        else:
            parts.append(visuals.part(piece[0], piece[1]))
    if all(part["type"] == "text" for part in parts):
        return {"role": role, "content": content}
    return {"role": role, "content": parts}


def _pieces(text: str, *, inline: bool) -> list[str | tuple[str, str | None]]:
    """Text cut at placeholders: strings, and (kind, source), the source being None for `<image>`."""
    pieces: list[str | tuple[str, str | None]] = []
    done = 0
    marks = [(match.span(), (match[1], None)) for match in _PLACEHOLDER.finditer(text)]
    if inline:
        inner = list(_INLINE_IMAGE.finditer(text))
        if len(inner) != text.count("<img>"):
            closed = {match.start() for match in inner}
            place = next(match.start() for match in re.finditer("<img>", text) if match.start() not in closed)
            near = text[place : place + 40].split("\n")[0]
            raise DataError(f"<img> has no </img> on its line, at {near!r}; close it after the address")
        marks += [(match.span(), ("image", match[1].strip())) for match in inner]
    for (start, end), mark in sorted(marks):
        if start > done:
            pieces.append(text[done:start])
        pieces.append(mark)
        done = end
    if done < len(text):
        pieces.append(text[done:])
    return pieces


def _check_boxes(text: str) -> None:
    for match in _BOX.finditer(text):
        if not all(0 <= int(edge) < BOX_END for edge in match.groups()):
            raise DataError(
                f"{match[0]} reaches outside [0, {BOX_END}); scale x by {BOX_END} / width, y by "
                f"{BOX_END} / height of the picture"
            )


def _part(part: Any, visuals: Visuals) -> Part:
    """One part of a message that is written in parts; one without a source takes the row's next."""
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not isinstance(part, dict):
        raise DataError(f"a message part is {_kind(part)}, expected an object with a type")
    kind = part.get("type") or next(
        (key for key in ("text", "image", "video", "image_url") if key in part), None
    )
    if kind == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind == "image_url":
        return visuals.part("image", part["image_url"])
    if kind not in ("image", "video"):
        raise DataError(f"a message part has the type {kind!r}, expected text, image, image_url or video")
    extra = {key: value for key, value in part.items() if key not in (kind, "path", "url", "type")}
    if any(part.get(key) for key in (kind, "path", "url")):
        return {
            **extra,
            **visuals.part(kind, {key: part[key] for key in (kind, "path", "url") if key in part}),
        }
    return visuals.next_part(kind, extra)


def _listed(row: dict[str, Any], kind: str) -> list[Any]:
    """What the row lists under `image` or `images`; an empty text or null lists nothing."""
    found: list[Any] = []
    for key in (kind, f"{kind}s"):
        value = row.get(key)
        found += value if isinstance(value, list) else [value] if value else []
    return found


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
