"""The installed device plugins as rows, for `mix-core devices`; and plain tables for the terminal."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from mix_core.device import choice, discovery

WIDEST = 60
"""Longer cells (search paths) do not widen their column."""


def list_devices(environ: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """One row for each installed plugin.

    Keys: name, distribution, version, vendor, state (absent, usable, broken), reason, priority, source, api.
    """
    entries = discovery.find_entries(environ=os.environ if environ is None else environ)
    return [_row(entry, [e for e in entries if e.name == entry.name]) for entry in entries]


def _row(entry: discovery.Entry, same_name: list[discovery.Entry]) -> dict[str, Any]:
    plugin = discovery.load(entry)
    profile = discovery.profile(plugin)
    found = discovery.probe(plugin)
    state, reason = found.state, found.reason
    if isinstance(profile, str):
        state, reason = "broken", profile
    elif len(same_name) > 1:
        state, reason = "broken", choice.two_distributions(same_name)
    return {
        "name": entry.name,
        "distribution": entry.distribution,
        "version": entry.version,
        "vendor": None if isinstance(profile, str) else profile.vendor,
        "state": state,
        "reason": "; ".join((reason, *plugin.warnings)),
        "priority": None if isinstance(profile, str) else profile.priority,
        "source": entry.source,
        "api": None if plugin.api is None else ".".join(str(part) for part in plugin.api),
    }


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[str]:
    """Rows as aligned columns under a heading; the last column and long cells stay as long as they are."""
    cells = [list(columns), *([_cell(row[column]) for column in columns] for row in rows)]
    fitting = [[len(text) for text in column if len(text) <= WIDEST] for column in zip(*cells)]
    widths = [max(lengths, default=0) for lengths in fitting[:-1]]
    return [
        "  ".join([*(text.ljust(w) for text, w in zip(line, widths)), line[-1]]).rstrip() for line in cells
    ]


def _cell(value: Any) -> str:
    return "-" if value is None else str(value)
