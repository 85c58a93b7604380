"""Questions from a file of rows, answers as JSON lines beside it; a run that was cut off goes on where it
ended.

A row is any that training knows (`messages`, `conversations`), or a question of its own: {"prompt": "...",
"image": path or list, "video": path or list}. A final turn of the assistant is kept as the `reference` and
not shown to the model. Rows of JSON lines are read one at a time. Imports no paddle.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from mix_core.data.conversations import read_messages
from mix_core.data.readers import read_rows_file
from mix_core.errors import BadInputError, DataError
from mix_core.inference.grounding import Box, parse_boxes

PROMPT_KEYS = ("prompt", "question", "query", "text")


@dataclass(frozen=True)
class Question:
    """One row to answer."""

    row: int
    """Counted from 1; blank lines do not count."""
    key: str
    """Short digest of the row as written: a resumed run sees that it is the same row."""
    id: Any
    messages: list[dict[str, Any]]
    reference: str | None


@dataclass
class Counts:
    answered: int = 0
    bad: int = 0
    done_before: int = 0
    """Rows that the output held when the run began."""


def found_boxes(text: str, engine: Any, picture: Any | None) -> list[Box]:
    """Boxes in an answer; those given in pixels are of `picture`."""
    return parse_boxes(text, seen_size=engine.seen_size(picture) if picture is not None else None)


def box_as_json(box: Box) -> dict[str, Any]:
    """{"label", "box": [x1, y1, x2, y2]}, of a quad its corners too."""
    return {"label": box.label, "box": list(box.corners)} | (
        {"quad": [list(corner) for corner in box.quad]} if box.quad else {}
    )


def raw_rows(path: Path) -> Iterator[tuple[int, str]]:
    """(row, its JSON text) of a JSON list or of JSON lines. Raises DataError."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            first = next((line for line in file if line.strip()), "")
            if not first.lstrip().startswith("["):
                file.seek(0)
                lines = (line for line in file if line.strip())
                yield from ((number, line.lstrip("\ufeff")) for number, line in enumerate(lines, 1))
                return
    except FileNotFoundError:
        raise DataError(f"the rows {path} do not exist") from None
    except OSError as error:
        raise DataError(f"the rows {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"the rows {path} are not UTF-8 text: byte {error.start} is wrong") from None
    for number, row in enumerate(read_rows_file(path), 1):
        yield number, json.dumps(row, ensure_ascii=False)


def digest(text: str) -> str:
    return hashlib.sha256(text.strip().encode()).hexdigest()[:12]


def read_question(number: int, text: str, root: Path) -> Question:
    """One row; relative paths start at `root`. Raises DataError without the row's place."""
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"no valid JSON: column {error.colno}: {error.msg}") from None
    if not isinstance(row, dict):
        raise DataError(f"{type(row).__name__}, expected an object with a prompt, messages or conversations")
    messages = read_messages(row if "messages" in row or "conversations" in row else _as_messages(row), root)
    reference = None
    if messages[-1]["role"] == "assistant":
        reference = str(messages.pop()["content"])
    if not messages or messages[-1]["role"] != "user":
        raise DataError("there is no question: the last turn that is not an answer must be the user's")
    return Question(number, digest(text), row.get("id", number), messages, reference)


def _as_messages(row: dict[str, Any]) -> dict[str, Any]:
    prompt = next((row[key] for key in PROMPT_KEYS if isinstance(row.get(key), str)), None)
    if prompt is None:
        keys = ", ".join(map(str, row)) or "none"
        raise DataError(f"no prompt, messages or conversations; the row's keys are {keys}")
    found: dict[str, Any] = {}
    for kind in ("image", "video"):
        given = [row[key] for key in (kind, f"{kind}s") if row.get(key)]
        flat = [one for value in given for one in (value if isinstance(value, list) else [value])]
        if f"<{kind}>" not in prompt:
            prompt = f"<{kind}>" * len(flat) + prompt
        found[f"{kind}s"] = flat
    return {"messages": [{"role": "user", "content": prompt}], **found}


class AnswerFile:
    """The JSON lines written so far, and appending to them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: dict[int, str] = {}
        if path.exists():
            self._read()

    def _read(self) -> None:
        """Take up what is there; a last line that was cut off is taken away."""
        whole = 0
        with self.path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                whole += len(line)
                try:
                    entry = json.loads(line)
                    self.done[int(entry["row"])] = str(entry["key"])
                except (ValueError, KeyError, TypeError) as error:
                    raise BadInputError(
                        f"{self.path} holds a line that is no answer of this command ({error!r}); "
                        "give another --out"
                    ) from None
        if whole != self.path.stat().st_size:
            os.truncate(self.path, whole)

    def has(self, number: int, text: str) -> bool:
        """Whether the row is answered. Raises BadInputError where the answer is another row's."""
        known = self.done.get(number)
        if known is not None and known != digest(text):
            raise BadInputError(
                f"{self.path} was written for other rows: row {number} is another one now; give another --out"
            )
        return known is not None

    def append(self, entries: list[dict[str, Any]]) -> None:
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
        except OSError as error:
            raise BadInputError(f"{self.path} cannot be written: {error.strerror}") from None


@dataclass
class BatchRun:
    """Answers to all rows of a file. `run` may be called again; it does what is left."""

    source: Path
    out: Path
    batch_size: int = 8
    skip_bad: bool = False
    """A row that cannot be answered gets a line with `error`; otherwise it ends the run."""
    on_answer: Callable[[Question, list[Box]], None] | None = None

    def check(self) -> None:
        """What can be wrong before a model is loaded. Raises BadInputError."""
        if self.batch_size < 1:
            raise BadInputError(f"--batch_size is {self.batch_size}, expected 1 or more")
        if self.source.resolve() == self.out.resolve():
            raise BadInputError(f"--out is the file of rows itself, {self.out}; give another")
        if not self.out.absolute().parent.is_dir() or self.out.is_dir():
            raise BadInputError(f"--out {self.out} cannot be written; give a file in a folder that exists")
        file = AnswerFile(self.out)
        empty = True
        for number, text in raw_rows(self.source):
            empty = False
            if not file.has(number, text) and not self.skip_bad:
                self._question(number, text)
        if empty:
            raise DataError(f"the rows {self.source} are none; expected JSON lines or a JSON list")

    def run(self, engine: Any, **answering: Any) -> Counts:
        """Answer what is not answered yet; every batch is written as it comes."""
        file = AnswerFile(self.out)
        counts = Counts()
        rows = raw_rows(self.source)
        while chunk := list(islice(rows, self.batch_size)):
            left = [(number, text) for number, text in chunk if not file.has(number, text)]
            counts.done_before += len(chunk) - len(left)
            questions: list[Question] = []
            entries: dict[int, dict[str, Any]] = {}
            for number, text in left:
                try:
                    questions.append(self._question(number, text))
                except DataError as error:
                    entries[number] = self._bad(number, digest(text), error)
            for question, answer in self._answers(engine, questions, answering):
                if isinstance(answer, BadInputError):
                    entries[question.row] = self._bad(question.row, question.key, answer)
                else:
                    entries[question.row] = self._entry(engine, question, answer)
            file.append([entries[number] for number in sorted(entries)])
            bad = sum("error" in entry for entry in entries.values())
            counts.bad += bad
            counts.answered += len(entries) - bad
        return counts

    def _question(self, number: int, text: str) -> Question:
        try:
            return read_question(number, text, self.source.absolute().parent)
        except DataError as error:
            raise DataError(f"{self.source} row {number}: {error}") from None

    def _bad(self, number: int, key: str, error: BadInputError) -> dict[str, Any]:
        """The line for a row that cannot be answered; raises its error where rows may not be skipped."""
        if not self.skip_bad:
            raise error
        return {"row": number, "key": key, "error": str(error)}

    def _answers(
        self, engine: Any, questions: list[Question], answering: dict[str, Any]
    ) -> list[tuple[Question, Any]]:
        """Answers in one batch; where it cannot be made, row by row, with the error of the row that is at
        fault."""
        if not questions:
            return []
        try:
            return list(
                zip(questions, engine.answer([q.messages for q in questions], **answering), strict=True)
            )
        except BadInputError as error:
            if len(questions) == 1:
                where = f"{self.source} row {questions[0].row}: "
                return [(questions[0], DataError(where + str(error).removeprefix(where)))]
        return [pair for one in questions for pair in self._answers(engine, [one], answering)]

    def _entry(self, engine: Any, question: Question, answer: Any) -> dict[str, Any]:
        boxes = found_boxes(answer.text, engine, last_picture(question.messages))
        if self.on_answer is not None:
            self.on_answer(question, boxes)
        entry = {
            "row": question.row,
            "key": question.key,
            "id": question.id,
            "text": answer.text,
            "boxes": [box_as_json(box) for box in boxes],
            "prompt_tokens": answer.prompt_tokens,
            "new_tokens": answer.new_tokens,
            "finish": answer.finish,
        }
        return entry | ({"reference": question.reference} if question.reference is not None else {})


def last_picture(messages: list[dict[str, Any]]) -> Any | None:
    """The last picture of a conversation, loaded; None where it has none."""
    from mix_core.data.images import load_image

    parts = [part for turn in messages if isinstance(turn["content"], list) for part in turn["content"]]
    pictures = [part["image"] for part in parts if part.get("type") == "image"]
    return load_image(pictures[-1]) if pictures else None
