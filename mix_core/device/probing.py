"""What `mix_probe` may look at: device files, installed distributions and version files."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def device_files(pattern: str, folder: str | Path = "/dev") -> list[str]:
    """The names in a folder that match a regular expression wholly, in the order of their numbers."""
    try:
        names = [name for name in os.listdir(folder) if re.fullmatch(pattern, name)]
    except OSError:
        return []
    return sorted(names, key=lambda name: (len(name), name))


def visible_count(count: int, variable: str, environ: Mapping[str, str] | None = None) -> int:
    """How many of `count` devices a visible-devices variable leaves; unset leaves all.

    Entries are counted up to the first that cannot exist (as the vendors' libraries do with -1).
    """
    text = (os.environ if environ is None else environ).get(variable)
    if text is None:
        return count
    seen = 0
    for entry in (part.strip() for part in text.split(",")):
        if not entry or entry.startswith("-") or (entry.isdigit() and int(entry) >= count):
            break
        seen += 1
    return seen


def installed_version(distribution: str) -> str | None:
    """The version of an installed distribution, or None."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def version_in_file(path: str | Path, pattern: str) -> str | None:
    """The first group of a regular expression in a small text file, or None when either is missing."""
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    match = re.search(pattern, text)
    return match[1] if match else None
