"""Rows that a run leaves out: which and why, each counted once, kept in the run folder."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

TOO_LONG = "longer than max_length"
FILE = "skipped.jsonl"


class SkippedRows:
    """Counts rows by name. A run that is resumed leaves the same rows out, without trying them again."""

    def __init__(self, path: Path | None = None, known: Path | None = None) -> None:
        """`path`: the file that `flush` adds to. `known`: that of the run which is gone on with."""
        self._path = path
        self._reasons: dict[str, str] = {}
        if known is not None and known.is_file():
            for line in known.read_text(encoding="utf-8").splitlines():
                try:
                    entry = json.loads(line)
                    self._reasons[entry["row"]] = entry["reason"]
                except (ValueError, KeyError, TypeError):
                    continue  # the line at which a run was killed
        self._unwritten = [] if known == path else list(self._reasons)

    def __len__(self) -> int:
        return len(self._reasons)

    def __contains__(self, source: str) -> bool:
        return source in self._reasons

    def add(self, source: str, reason: str) -> None:
        """Note a row that is left out."""
        if source in self._reasons:
            return
        self._reasons[source] = reason
        self._unwritten.append(source)

    def flush(self) -> None:
        """Write down what is new."""
        if self._path is not None and self._unwritten:
            with self._path.open("a", encoding="utf-8") as file:
                for source in self._unwritten:
                    entry = {"row": source, "reason": self._reasons[source]}
                    file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        self._unwritten = []

    @property
    def first(self) -> str | None:
        """What was wrong with the first one."""
        return next(iter(self._reasons.values()), None)

    def counts(self) -> dict[str, int]:
        """For the results: rows left out because they are bad and because they are too long; {} for none."""
        kinds = Counter(
            "skipped_too_long" if reason == TOO_LONG else "skipped_bad" for reason in self._reasons.values()
        )
        return dict(sorted(kinds.items()))

    def summary(self) -> str | None:
        """One line for the screen, None when no row was left out."""
        if not self._reasons:
            return None
        counts = self.counts()
        parts = [
            f"{counts[kind]:,} {words}"
            for kind, words in (("skipped_bad", "cannot be used"), ("skipped_too_long", "too long"))
            if kind in counts
        ]
        where = f"; {self._path} names them" if self._path is not None else ""
        return f"rows left out: {', '.join(parts)} (the first: {self.first}){where}"
