"""A JSON-lines file read row by row through an index of where its lines begin; no row stays in memory.

Shapes: N rows.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from mix_core.errors import DataError

CHUNK_BYTES = 8 << 20
"""Read at once while the index is made."""

_NEWLINE = 10
_SPACES = np.frombuffer(b" \t\r\n", np.uint8)


class LineFile:
    """The JSON values of a file's lines, by number; empty lines count for nothing."""

    def __init__(self, path: Path, index_folder: Path | None = None) -> None:
        """Find the lines. `index_folder` keeps the index, so that another run need not read the file for it.

        Raises DataError when the file cannot be read.
        """
        self.path = path
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise DataError(f"the data set {path} cannot be read: {error.strerror}") from None
        self._descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)
        self.starts = _kept_starts(path, descriptor, index_folder)
        """Where each row begins in the file, and its end: (N + 1,) uint64, bytes."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    def text(self, number: int) -> bytes:
        """The bytes of a row, counted from 0."""
        if not 0 <= number < len(self):
            raise IndexError(f"row {number} of {len(self)}")
        start, end = int(self.starts[number]), int(self.starts[number + 1])
        parts = []
        while start < end:
            part = os.pread(self._descriptor, end - start, start)
            if not part:
                raise DataError(f"{self.path} has become shorter since its index was made; start again")
            parts.append(part)
            start += len(part)
        return b"".join(parts)

    def __getitem__(self, number: int) -> Any:
        """The value of a row, counted from 0. Raises DataError that names the row, counted from 1."""
        where = f"{self.path} row {number + 1}"
        try:
            return json.loads(self.text(number).decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise DataError(f"{where}: byte {error.start} of its line is not UTF-8") from None
        except json.JSONDecodeError as error:
            raise DataError(f"{where}: no valid JSON at column {error.colno}: {error.msg}") from None

    def lengths_bytes(self) -> np.ndarray:
        """Length of every row, (N,) int64, without reading one."""
        return np.diff(self.starts.astype(np.int64))


def _kept_starts(path: Path, descriptor: int, folder: Path | None) -> np.ndarray:
    """The index from `folder` if it is that of this very file, else a new one, which is put there."""
    status = os.fstat(descriptor)
    if folder is None:
        return _find_starts(path, descriptor)
    name = hashlib.sha256(os.path.abspath(path).encode()).hexdigest()[:16]
    place = folder / f"{name}-{status.st_size}-{status.st_mtime_ns}.npy"
    try:
        starts = np.load(place, mmap_mode="r", allow_pickle=False)
        if starts.dtype == np.uint64 and starts.ndim == 1 and starts[-1] == status.st_size:
            return starts
    except (OSError, ValueError, IndexError, EOFError):
        pass  # none there, or a broken one: it is made anew
    starts = _find_starts(path, descriptor)
    part = place.with_name(f"{place.name}.{os.getpid()}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            np.save(file, starts, allow_pickle=False)
        for old in folder.glob(f"{name}-*.npy"):
            old.unlink(missing_ok=True)
        os.replace(part, place)
    except OSError:  # a full or read-only cache costs the next run time, nothing else
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return starts


def _find_starts(path: Path, descriptor: int) -> np.ndarray:
    found: list[np.ndarray] = []
    at, is_start = 0, True
    while chunk := os.pread(descriptor, CHUNK_BYTES, at):
        bytes_ = np.frombuffer(chunk, np.uint8)
        starts = np.flatnonzero(bytes_ == _NEWLINE) + 1
        if is_start:
            starts = np.concatenate([[0], starts])
        is_start = bool(len(starts)) and starts[-1] == len(chunk)
        starts = starts[starts < len(chunk)]
        doubtful = np.isin(bytes_[starts], _SPACES)
        kept = ~doubtful
        for place in np.flatnonzero(doubtful & (bytes_[starts] != _NEWLINE)):
            kept[place] = not _is_blank(descriptor, at + int(starts[place]))
        found.append(starts[kept].astype(np.uint64) + np.uint64(at))
        at += len(chunk)
    return np.concatenate([*found, np.array([at], np.uint64)])


def _is_blank(descriptor: int, start: int) -> bool:
    """Whether the line that begins here has nothing but spaces."""
    while part := os.pread(descriptor, 4096, start):
        line, newline, _ = part.partition(b"\n")
        if line.strip():
            return False
        if newline:
            break
        start += len(part)
    return True
