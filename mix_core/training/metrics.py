"""The run's measurements, one JSON object a line: `metrics.jsonl`.

A line is `{"step": 12, "loss": 1.93, "learning_rate": 0.001, ...}`. Values that are not finite are written as
null, because JSON has no word for them. Lines are buffered and reach the file after `flush_after_s`, at
`flush`, at `close` and at exit; call `flush` before a checkpoint is published, so that every step that a
checkpoint contains has its line, whatever kills the process later.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import time
from pathlib import Path
from typing import Any

from mix_core.errors import BadInputError


def plain(value: Any) -> Any:
    """A value as JSON can hold it: scalars of arrays unwrapped, NaN and infinities as None."""
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if hasattr(value, "item") and not isinstance(value, (int, float, str, bool)):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


class MetricsWriter:
    """Appends measurements to a JSON-lines file.

    Args:
        path: the file; its folder must exist.
        resume_step: None starts an empty file. A step keeps the lines up to and including it and drops what a
            killed process wrote after it, a torn last line included.
        flush_after_s: seconds that a line may wait in memory.
    Raises:
        BadInputError: the file cannot be written.
    """

    def __init__(
        self, path: str | Path, *, resume_step: int | None = None, flush_after_s: float = 1.0
    ) -> None:
        self.path = Path(path)
        self.flush_after_s = flush_after_s
        self._lines: list[str] = []
        self._flushed_at = time.monotonic()
        try:
            kept = read_metrics(self.path) if resume_step is not None and self.path.exists() else []
            kept = [row for row in kept if row.get("step", 0) <= (resume_step or 0)]
            beside = self.path.with_name(self.path.name + ".new")
            beside.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
            os.replace(beside, self.path)
            self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)
        except OSError as error:
            raise BadInputError(
                f"cannot write {self.path}: {error.strerror}; give an output_dir that can be written"
            ) from error
        atexit.register(self.close)

    def write(self, step: int, **values: Any) -> None:
        """Add one line for `step`; the values keep their order."""
        row = {"step": int(step)} | {name: plain(value) for name, value in values.items()}
        self._lines.append(json.dumps(row) + "\n")
        if time.monotonic() - self._flushed_at >= self.flush_after_s:
            self.flush()

    def flush(self) -> None:
        """Hand every buffered line to the operating system, in one write."""
        self._flushed_at = time.monotonic()
        if self._lines and not self._file.closed:
            lines, self._lines = self._lines, []
            self._file.write("".join(lines))
            self._file.flush()

    def close(self) -> None:
        self.flush()
        self._file.close()
        atexit.unregister(self.close)

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a metrics file, oldest first. A line that is torn or not an object is left out."""
    rows = []
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(row, dict):
                rows.append(row)
    return rows
