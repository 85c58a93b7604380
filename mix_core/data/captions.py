"""A folder of pictures with captions, for text to image.

Captions stand in `metadata.jsonl` (one object a line) or `metadata.csv`, each row with `file_name` and the
caption's column, as the `imagefolder` of Hugging Face's data sets has them; or beside each picture in a text
file of its name. A folder without captions serves where a prompt is given for all of it (DreamBooth).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mix_core.errors import DataError

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
JSONL, CSV = "metadata.jsonl", "metadata.csv"
FILE_COLUMN = "file_name"
NAMED = 5
"""Missing pictures that an error names."""


@dataclass(frozen=True)
class CaptionedPicture:
    path: Path
    captions: tuple[str, ...]
    """One, or several of which each epoch takes one."""


def read_captions(folder: Path, column: str = "text", prompt: str | None = None) -> list[CaptionedPicture]:
    """The folder's pictures in the order of the file, or of their names.

    column: the caption's (the key `caption_column`); prompt: the caption of all, in place of files. Raises
    DataError that names folder, file and line for what is missing, empty or of the wrong kind.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; expected one with pictures and their captions")
    if prompt is not None:
        return [CaptionedPicture(path, (prompt,)) for path in _pictures(folder)]
    for name, rows in ((JSONL, _jsonl_rows), (CSV, _csv_rows)):
        if (folder / name).is_file():
            return _from_rows(folder, folder / name, rows(folder / name), column)
    return _from_text_files(folder)


def _pictures(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES and path.is_file())
    if not found:
        raise DataError(f"{folder} holds no picture ({', '.join(PICTURES)})")
    return found


def _from_rows(
    folder: Path, file: Path, rows: Iterator[tuple[int, dict[str, Any]]], column: str
) -> list[CaptionedPicture]:
    found, missing = [], []
    for number, row in rows:
        where = f"{file}:{number}"
        name = row.get(FILE_COLUMN)
        if not isinstance(name, str) or not name:
            raise DataError(f"{where}: {FILE_COLUMN} is {name!r}, expected the name of a picture in {folder}")
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise DataError(
                f"{where}: {name} lies outside of {folder}; a picture must lie in the captions' folder"
            )
        captions = _captions_of(row, column, where)
        if path.is_file():
            found.append(CaptionedPicture(path, captions))
        else:
            missing.append(f"{name} (line {number})")
    if missing:
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        raise DataError(
            f"{file} names {len(missing) + len(found)} pictures, of which {folder} lacks {len(missing)}: "
            f"{', '.join(missing[:NAMED])}{more}; add them, or take their lines out"
        )
    if not found:
        raise DataError(f"{file} names no picture; expected one line for each")
    return found


def _captions_of(row: dict[str, Any], column: str, where: str) -> tuple[str, ...]:
    if column not in row:
        others = ", ".join(key for key in row if key != FILE_COLUMN)
        raise DataError(
            f"{where} has no column {column!r}; give caption_column as one of: {others or '(none)'}"
        )
    value = row[column]
    captions = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else ()
    if not captions or not all(isinstance(one, str) for one in captions):
        raise DataError(f"{where}: {column} is {value!r}, expected a text or a list of texts")
    return captions


def _jsonl_rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(_text(file).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{file}:{number}: not valid JSON ({error})") from None
        if not isinstance(row, dict):
            raise DataError(f"{file}:{number}: a {type(row).__name__}, expected an object with {FILE_COLUMN}")
        yield number, row


def _csv_rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(_text(file).splitlines())
    for row in reader:
        yield reader.line_num, {key: value for key, value in row.items() if key is not None}


def _from_text_files(folder: Path) -> list[CaptionedPicture]:
    pictures = _pictures(folder)
    without = [path for path in pictures if not path.with_suffix(".txt").is_file()]
    if without:
        raise DataError(
            f"{folder} has neither {JSONL} nor {CSV}, and {len(without)} of {len(pictures)} pictures have no "
            f"text file of their name beside them (the first: {without[0].relative_to(folder)})"
        )
    return [CaptionedPicture(path, (_text(path.with_suffix(".txt")).strip(),)) for path in pictures]


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as UTF-8 text: {error}") from None
