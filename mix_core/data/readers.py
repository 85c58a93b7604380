"""Data sets: files of rows in, rows of chat messages out.

A set is a JSON file with a list of rows or a JSON-lines file. Several are written `a.json,b.json#500` (the
first 500 rows of b), or as entries {"data_files": path, "name"?, "max_samples"?, "repeat_time"?}.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mix_core.data.conversations import local_files, read_messages
from mix_core.errors import DataError

Row = dict[str, Any]
"""{"messages": [...], "task": str | None, "id": ..., "source": "a.json row 3"}; rows count from 1."""

_CAPPED = re.compile(r"(.+)#(\d+)")


@dataclass(frozen=True)
class SetSpec:
    """One data set as the configuration names it."""

    path: Path
    name: str
    max_samples: int | None = None
    """Read at most so many rows."""
    repeat_time: float = 1.0
    """How often the rows come: 2 repeats them, 0.5 takes the first half."""


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
) -> list[Row]:
    """All rows of the sets, one set after the other.

    A repeated row is the same object again. Relative paths of images start at `image_root`, else at the
    folder of the rows' file. `max_samples` caps each set.

    Raises DataError that names file and row for: a missing or unreadable file, text that is no JSON, a set
    without rows, a row of no known form, placeholders that do not match, an image or video that is not there.
    """
    rows: list[Row] = []
    for one in parse_spec(spec):
        caps = [cap for cap in (max_samples, one.max_samples) if cap is not None]
        rows += _repeated(_read_set(one.path, image_root, min(caps) if caps else None), one.repeat_time)
    return rows


def _read_set(path: Path, image_root: str | Path | None, cap: int | None) -> list[Row]:
    raw_rows = read_rows_file(path, cap)
    root = Path(os.path.abspath(image_root if image_root is not None else path.parent))
    known: set[str] = set()
    rows = []
    for number, raw in enumerate(raw_rows, 1):
        source = f"{path} row {number}"
        try:
            messages = read_messages(raw, root)
            for file in local_files(messages):
                if file not in known:
                    _check_file(file)
                    known.add(file)
        except DataError as error:
            raise DataError(f"{source}: {error}") from None
        rows.append(
            {"messages": messages, "task": raw.get("task"), "id": raw.get("id", number), "source": source}
        )
    return rows


def _check_file(file: str) -> None:
    if not os.path.isfile(file):
        what = "is a folder" if os.path.isdir(file) else "does not exist"
        raise DataError(
            f"the file {file} {what}; relative paths start at the folder of the rows, or dataset_dir"
        )


def read_rows_file(path: Path, cap: int | None = None) -> list[Any]:
    """Raw rows of a JSON list or of JSON lines, at most `cap`; which of the two is seen from the text."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"the data set {path} does not exist (looked in {Path.cwd()})") from None
    except OSError as error:
        raise DataError(f"the data set {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"the data set {path} is not UTF-8 text: byte {error.start} is wrong") from None
    rows = _json_lines(path, text, cap) if text.lstrip().startswith("{") else _json_list(path, text)[:cap]
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


def _json_lines(path: Path, text: str, cap: int | None) -> list[Any]:
    rows: list[Any] = []
    for number, line in enumerate(text.split("\n"), 1):
        if cap is not None and len(rows) >= cap:
            break
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise DataError(
                f"the data set {path} is neither a JSON list nor JSON lines: line {number}, "
                f"column {error.colno}: {error.msg}"
            ) from None
    return rows


def _repeated(rows: list[Row], times: float) -> list[Row]:
    """round(times * rows) rows, going round; at least one."""
    count = max(1, round(times * len(rows)))
    return [rows[place % len(rows)] for place in range(count)]
