"""conformance.toml: what a plugin is known not to meet, each entry with a reason and an end.

device = "acme"
case_modules = ["mix_device_acme.cases"]    # the plugin's own cases, optional

[[exceptions]]
id = "L2/softmax/float16/*"                 # a case, or a pattern of cases
kind = "widen"                              # skip, fail or widen
factor = 2.0                                # of widen: how many times the suite's limit, at most 4
reason = "exp goes through a table of 10 bits"
issue = "ACME-123"
only = "simulated"                          # or "hardware": where it holds, optional
until_version = "1.2"                       # of the plugin: from then on the entry is an error
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mix_core.device.profile import VersionRange
from mix_core.errors import BadInputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PLACES = ("simulated", "hardware")
KINDS = ("skip", "fail", "widen")
MAX_FACTOR = 4.0
"""Beyond four times the suite's limit a kernel is wrong, not imprecise."""
_TOP = ("device", "case_modules", "exceptions")
_REQUIRED = ("id", "kind", "reason", "issue", "until_version")
_FILE = "file"
_LINES = "lines"


@dataclass(frozen=True)
class Entry:
    """One exception."""

    id: str
    kind: str
    reason: str
    issue: str
    until_version: str
    factor: float = 1.0
    only: str = ""
    """`simulated` or `hardware`, or both."""
    place: str = ""
    """File and line, where they are known."""

    def covers(self, case_id: str) -> bool:
        return fnmatchcase(case_id, self.id)


@dataclass(frozen=True)
class Exceptions:
    """What a plugin excuses, and the modules of its own cases."""

    entries: tuple[Entry, ...] = ()
    case_modules: tuple[str, ...] = ()
    file: str = "conformance.toml"

    def of(self, case_id: str, kind: str) -> Entry | None:
        return next((e for e in self.entries if e.kind == kind and e.covers(case_id)), None)


def read_conformance(path: str | Path) -> dict[str, Any]:
    """Parse a conformance.toml, for `mix_conformance`. Raises BadInputError with file and line."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        parsed = tomllib.loads(text)
    except OSError as error:
        raise BadInputError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path} is not valid TOML: {error}") from None
    return parsed | {_FILE: str(path), _LINES: text.splitlines()}


def check_exceptions(said: Any, device: str, version: str, *, simulated: bool = False) -> Exceptions:
    """Validate what `mix_conformance` returned; None is no exception. Those for elsewhere are left out.

    Raises:
        BadInputError: an unknown, missing or mistyped key (with line and key), or an entry that has expired.
    """
    if said is None:
        return Exceptions()
    if not isinstance(said, Mapping):
        raise BadInputError(f"mix_conformance of {device} returned {said!r}, not a mapping")
    file = str(said.get(_FILE, f"mix_conformance of {device}"))
    places = _Places(file, said.get(_LINES))
    body = {key: value for key, value in said.items() if key not in (_FILE, _LINES)}
    for key in body:
        if key not in _TOP:
            raise BadInputError(f"{places.top(key)}: unknown key {key!r}; {_nearest(key, _TOP)}")
    if body.get("device") != device:
        raise BadInputError(f"{places.top('device')}: device is {body.get('device')!r}, expected {device!r}")
    modules = body.get("case_modules", [])
    if not isinstance(modules, list) or not all(isinstance(name, str) for name in modules):
        raise BadInputError(
            f"{places.top('case_modules')}: case_modules is {modules!r}, expected a list of text"
        )
    rows = body.get("exceptions", [])
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise BadInputError(f"{places.top('exceptions')}: exceptions is {rows!r}, expected tables")
    entries = tuple(_entry(row, number, places, version) for number, row in enumerate(rows))
    here = PLACES[0] if simulated else PLACES[1]
    return Exceptions(tuple(e for e in entries if e.only in ("", here)), tuple(modules), file)


def _entry(row: Mapping[str, Any], number: int, places: _Places, version: str) -> Entry:
    known = (*_REQUIRED, "factor", "only")
    for key in row:
        if key not in known:
            raise BadInputError(f"{places.inside(number, key)}: unknown key {key!r}; {_nearest(key, known)}")
    for key in _REQUIRED:
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise BadInputError(
                f"{places.inside(number, key)}: {key} is {row.get(key)!r}, expected some text"
            )
    if row["kind"] not in KINDS:
        raise BadInputError(
            f"{places.inside(number, 'kind')}: kind is {row['kind']!r}; {_nearest(row['kind'], KINDS)}"
        )
    if row.get("only", PLACES[0]) not in PLACES:
        raise BadInputError(
            f"{places.inside(number, 'only')}: only is {row['only']!r}, expected {' or '.join(PLACES)}"
        )
    factor = row.get("factor", 1.0)
    if (row["kind"] == "widen") != ("factor" in row):
        raise BadInputError(f"{places.inside(number, 'factor')}: factor is for kind widen, and needed there")
    if "factor" in row and not (type(factor) in (int, float) and 1.0 < factor <= MAX_FACTOR):
        raise BadInputError(
            f"{places.inside(number, 'factor')}: factor is {factor!r}, expected a number above 1, at most "
            f"{MAX_FACTOR:g}"
        )
    try:
        expired = VersionRange(f">={row['until_version']}", "conformance.toml").contains(version)
    except ValueError:
        raise BadInputError(
            f"{places.inside(number, 'until_version')}: until_version is {row['until_version']!r}, expected "
            "a version such as 1.2"
        ) from None
    if expired:
        raise BadInputError(
            f"{places.inside(number, 'until_version')}: the exception {row['id']!r} ended with version "
            f"{row['until_version']}, and the plugin is {version}: repair it or give a new end and reason"
        )
    fields = {key: row[key] for key in _REQUIRED}
    return Entry(**fields, factor=float(factor), only=row.get("only", ""), place=places.inside(number, "id"))


def _nearest(word: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"


@dataclass(frozen=True)
class _Places:
    """Where keys stand in the file."""

    file: str
    lines: list[str] | None = field(repr=False)

    def top(self, key: str) -> str:
        return self._at(0, key)

    def inside(self, number: int, key: str) -> str:
        starts = [i for i, line in enumerate(self.lines or ()) if line.strip().startswith("[[exceptions]]")]
        return self._at(starts[number], key) if number < len(starts) else self.file

    def _at(self, start: int, key: str) -> str:
        """`FILE:LINE` of the key, or of the table's first line where it is absent."""
        for i in range(start, len(self.lines or ())):
            line = (self.lines or [])[i]
            if i > start and line.strip().startswith("[["):
                break
            if re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
                return f"{self.file}:{i + 1}"
        return f"{self.file}:{start + 1}" if self.lines else self.file
