"""A run folder as the report reads it, however much of it there is; and how the report writes numbers.

Nothing here raises for a file that is missing, torn or of another form: the report of a run that failed
half-way is the one that is needed most.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from mix_core.errors import BadInputError
from mix_core.training.metrics import read_metrics


@dataclass(frozen=True)
class RunView:
    """What the files of a run folder say."""

    folder: Path
    record: dict[str, Any] = field(default_factory=dict)
    """run.json."""
    metrics: list[dict[str, Any]] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)
    gallery: list[dict[str, Any]] = field(default_factory=list)

    def section(self, *names: str) -> dict[str, Any]:
        """An object within run.json, {} where there is none."""
        found: Any = self.record
        for name in names:
            found = found.get(name) if isinstance(found, dict) else None
        return found if isinstance(found, dict) else {}

    def points(self, name: str) -> list[tuple[float, float]]:
        """(step, value) of every line of metrics.jsonl that has this value as a finite number."""
        rows = ((row.get("step"), row.get(name)) for row in self.metrics)
        return [(float(step), float(value)) for step, value in rows if is_number(step) and is_number(value)]

    def names(self, prefix: str) -> list[str]:
        """Names of measured values that begin with `prefix`, in the order in which they first come."""
        found = {name: None for row in self.metrics for name in row if name.startswith(prefix)}
        return list(found)

    @property
    def seconds(self) -> float | None:
        """From start to end by the clock; None where either is not known."""
        try:
            started, ended = (
                datetime.strptime(self.record[k], "%Y-%m-%dT%H:%M:%S%z") for k in ("started", "ended")
            )
        except (KeyError, TypeError, ValueError):
            return None
        return (ended - started).total_seconds()


def read_run(folder: str | Path) -> RunView:
    """Read what is there. Raises BadInputError where the folder itself is not."""
    folder = Path(folder)
    if not folder.is_dir():
        raise BadInputError(f"there is no run folder {folder}; give the output_dir of a run")
    record, results, gallery = (_json(folder / name) for name in ("run.json", "results.json", "gallery.json"))
    metrics = folder / "metrics.jsonl"
    return RunView(
        folder,
        record=record if isinstance(record, dict) else {},
        metrics=read_metrics(metrics) if metrics.is_file() else [],
        results=results if isinstance(results, dict) else {},
        gallery=[entry for entry in gallery if isinstance(entry, dict)] if isinstance(gallery, list) else [],
    )


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def number(value: float) -> str:
    """A measured value in few characters: 0.0312, 12.3, 4,210, 1.5e-06."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    if size < 0.001:
        digits, power = f"{value:.3g}".partition("e")[::2] if size < 1e-4 else (f"{value:.3g}", "")
        return f"{digits}e{int(power)}" if power else digits
    return f"{value:.4g}"


def share(value: float) -> str:
    """A part of one in percent."""
    return f"{100 * value:.1f} %"


def count(value: float) -> str:
    """A large count: 1.37 million, 36,000."""
    for unit, name in ((1e9, "billion"), (1e6, "million")):
        if value >= unit:
            return f"{value / unit:.3g} {name}"
    return f"{value:,.0f}"


def duration(seconds: float) -> str:
    """`4 min 12 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def memory_unit(most_bytes: float) -> tuple[float, str]:
    """(bytes of a unit, its name) in which to write sizes up to `most_bytes`."""
    return (2.0**30, "GiB") if most_bytes >= 2**30 else (2.0**20, "MiB")
