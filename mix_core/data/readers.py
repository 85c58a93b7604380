"""Data sets: files of rows in, rows of chat messages out.

A set is a JSON file with a list of rows or a JSON-lines file. Several are written `a.json,b.json#500` (the
first 500 rows of b), or as entries with the keys of `SetSpec`. JSON lines above IN_MEMORY_BYTES are read row
by row through an index (index.py) and checked as they come; everything else is read and checked at once.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mix_core.data.conversations import local_files, read_messages
from mix_core.data.index import LineFile
from mix_core.data.table import IndexedSet, MemorySet, Row, RowSet, RowTable
from mix_core.errors import DataError

IN_MEMORY_BYTES = 64 << 20
"""A JSON-lines file up to this size is read and checked before the start."""
DEFAULT_PROMPT = "Describe the image."
"""What is asked about a picture that comes with a caption alone."""

_CAPPED = re.compile(r"(.+)#(\d+)")


@dataclass(frozen=True)
class SetSpec:
    """One data set as the configuration names it."""

    path: Path
    name: str
    max_samples: int | None = None
    """Read at most so many rows."""
    repeat_time: float = 1.0
    """How often the rows come in an epoch."""
    weight: float | None = None
    """Share of an epoch, in proportion to the other sets'."""
    root: str | None = None
    """Folder in which relative paths of pictures start."""
    prompt: str = DEFAULT_PROMPT
    chat_template: str | None = None
    """Another template than the run's, for these rows."""
    max_dynamic_patch: int | None = None
    """Most tiles of a picture, for these rows."""


def parse_spec(spec: str | Sequence[dict[str, Any]]) -> list[SetSpec]:
    """The sets that a comma list or a list of entries names. Raises DataError."""
    entries = [{"data_files": name.strip()} for name in spec.split(",")] if isinstance(spec, str) else spec
    found = [one for entry in entries for one in _entry_sets(entry)]
    if not found:
        raise DataError("the data set names no file; expected a.json, or a.json,b.json#500")
    return found


def _entry_sets(entry: dict[str, Any]) -> list[SetSpec]:
    sets = []
    for written in str(entry["data_files"]).split(","):
        if not (written := written.strip()):
            continue
        capped = _CAPPED.fullmatch(written)
        path = Path(capped[1] if capped else written)
        caps = [
            cap for cap in (entry.get("max_samples"), int(capped[2]) if capped else None) if cap is not None
        ]
        if caps and min(caps) < 1:
            raise DataError(f"{written} asks for {min(caps)} rows, expected 1 or more")
        repeat = entry.get("repeat_time")
        sets.append(
            SetSpec(
                path=path,
                name=entry.get("name") or path.stem,
                max_samples=min(caps) if caps else None,
                repeat_time=1.0 if repeat is None else float(repeat),
                weight=entry.get("weight"),
                root=entry.get("root"),
                prompt=entry.get("prompt") or DEFAULT_PROMPT,
                chat_template=entry.get("chat_template"),
                max_dynamic_patch=entry.get("max_dynamic_patch"),
            )
        )
    return sets


def dataset_files(spec: str | Sequence[dict[str, Any]]) -> list[Path]:
    """The files that a specification names, in order, each once."""
    return list(dict.fromkeys(one.path for one in parse_spec(spec)))


def read_dataset(
    spec: str | Sequence[dict[str, Any]],
    *,
    image_root: str | Path | None = None,
    max_samples: int | None = None,
    index_folder: Path | None = None,
    keep_bad: bool = False,
) -> RowTable:
    """The rows of the sets, one set after the other.

    Relative paths of images start at the entry's `root`, else at `image_root`, else at the folder of the
    rows' file. `max_samples` caps each set. `index_folder` keeps the indexes of large files. `keep_bad`: a
    row that cannot be used raises when it is asked for, not here.

    Raises DataError that names file and row for: a missing or unreadable file, text that is no JSON, a set
    without rows, a row of no known form, placeholders that do not match, an image or video that is not there.
    """
    sets = []
    for one in parse_spec(spec):
        caps = [cap for cap in (max_samples, one.max_samples) if cap is not None]
        root = Path(os.path.abspath(one.root or image_root or one.path.parent))
        make_row = partial(_make_row, one, root)
        cap = min(caps) if caps else None
        sets.append(_read_set(one.path, cap, make_row, index_folder, keep_bad))
    return RowTable(sets)


def _read_set(
    path: Path, cap: int | None, make_row: Any, index_folder: Path | None, keep_bad: bool
) -> RowSet:
    if path.is_file() and path.stat().st_size > IN_MEMORY_BYTES and _is_json_lines(path):
        return IndexedSet(LineFile(path, index_folder), partial(make_row, known=None), cap)
    known: set[str] = set()
    rows: list[Row | DataError] = []
    for number, raw in enumerate(read_rows_file(path, cap, keep_bad=keep_bad)):
        try:
            if isinstance(raw, DataError):
                raise raw
            rows.append(make_row(raw, number, known=known))
        except DataError as error:
            if not keep_bad:
                raise
            rows.append(error)
    return MemorySet(rows, lambda number: f"{path} row {number + 1}")


def _make_row(spec: SetSpec, root: Path, raw: Any, number: int, *, known: set[str] | None) -> Row:
    """A raw row as messages, its local files being there. `known`: files that have been seen to be."""
    source = f"{spec.path} row {number + 1}"
    try:
        messages = read_messages(raw, root, prompt=spec.prompt)
        for file in local_files(messages):
            if known is None or file not in known:
                _check_file(file)
                if known is not None:
                    known.add(file)
    except DataError as error:
        raise DataError(f"{source}: {error}") from None
    row = {"messages": messages, "task": raw.get("task"), "id": raw.get("id", number + 1), "source": source}
    own = {"chat_template": spec.chat_template, "max_dynamic_patch": spec.max_dynamic_patch}
    return row | {key: value for key, value in own.items() if value is not None}


def _check_file(file: str) -> None:
    if not os.path.isfile(file):
        what = "is a folder" if os.path.isdir(file) else "does not exist"
        raise DataError(
            f"the file {file} {what}; relative paths start at the folder of the rows, or dataset_dir"
        )


def _is_json_lines(path: Path) -> bool:
    """Whether the file's text begins with an object, not with a list."""
    with path.open("rb") as file:
        return file.read(4096).decode("utf-8-sig", errors="replace").lstrip().startswith("{")


def read_rows_file(path: Path, cap: int | None = None, *, keep_bad: bool = False) -> list[Any]:
    """Raw rows of a JSON list or of JSON lines, at most `cap`; which of the two is seen from the text.

    `keep_bad`: a line that is no JSON becomes the DataError that says so, instead of raising it.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"the data set {path} does not exist (looked in {Path.cwd()})") from None
    except OSError as error:
        raise DataError(f"the data set {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"the data set {path} is not UTF-8 text: byte {error.start} is wrong") from None
    is_lines = text.lstrip().startswith("{")
    rows = _json_lines(path, text, cap, keep_bad) if is_lines else _json_list(path, text)[:cap]
    if not rows:
        raise DataError(f"the data set {path} holds no rows; expected a JSON list of objects, or JSON lines")
    return rows


def _json_list(path: Path, text: str) -> list[Any]:
    if not text.strip():
        return []
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"the data set {path} is no valid JSON: line {error.lineno}, column {error.colno}: {error.msg}"
        ) from None
    if not isinstance(rows, list):
        raise DataError(f"the data set {path} holds {type(rows).__name__}, expected a list of rows")
    return rows


def _json_lines(path: Path, text: str, cap: int | None, keep_bad: bool) -> list[Any]:
    rows: list[Any] = []
    for number, line in enumerate(text.split("\n"), 1):
        if cap is not None and len(rows) >= cap:
            break
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            bad = DataError(
                f"the data set {path} is neither a JSON list nor JSON lines: line {number}, "
                f"column {error.colno}: {error.msg}"
            )
            if not keep_bad:
                raise bad from None
            rows.append(bad)
    return rows
