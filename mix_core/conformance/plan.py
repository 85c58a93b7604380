"""Which cases are run: the suite's and the plugin's own, and of them those that were asked for."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from mix_core.conformance import LEVEL_MODULES
from mix_core.conformance.case import LEVELS, Case
from mix_core.conformance.target import Target
from mix_core.errors import BadInputError

CASES = "conformance_cases"
"""The function of a module of cases: Target -> cases. It imports no paddle; what `run` calls may."""


@dataclass(frozen=True)
class Selection:
    """What was asked for; None is everything."""

    level: int = max(LEVELS)
    only_level: int | None = None
    operator: str | None = None
    model: str | None = None
    ids: tuple[str, ...] = ()
    """Cases, or patterns of cases."""
    fail_fast: bool = False
    """Whether the process in which a case turned red is the last one."""

    @property
    def complete(self) -> bool:
        return self == Selection()

    def takes(self, case: Case) -> bool:
        levels = range(self.level + 1) if self.only_level is None else (self.only_level,)
        return (
            case.level in levels
            and self.operator in (None, case.operator)
            and self.model in (None, case.model)
            and (not self.ids or any(fnmatchcase(case.id, pattern) for pattern in self.ids))
        )


def all_cases(target: Target) -> list[Case]:
    """Every case of the suite and of the plugin, by level. Raises BadInputError for a plugin's wrong ones."""
    cases: list[Case] = []
    modules = [f"mix_core.conformance.{name}" for name in LEVEL_MODULES]
    for name in modules[:1] if target.problem else modules:
        cases += getattr(importlib.import_module(name), CASES)(target)
    cases += _of_plugin(target)
    twice = [
        case.id
        for case, other in zip(sorted(cases, key=_id), sorted(cases, key=_id)[1:])
        if case.id == other.id
    ]
    if twice:
        raise BadInputError(f"two cases are called {twice[0]!r}; the plugin's own need names of their own")
    return sorted(cases, key=lambda case: case.level)


def _of_plugin(target: Target) -> Iterable[Case]:
    for name in target.exceptions.case_modules:
        try:
            cases = getattr(importlib.import_module(name), CASES)(target)
        except (ImportError, AttributeError) as error:
            raise BadInputError(f"{target.exceptions.file}: case module {name!r}: {error}") from None
        for case in cases:
            if not isinstance(case, Case) or case.id.split("/")[0] not in {f"L{level}" for level in LEVELS}:
                raise BadInputError(
                    f"{name}.{CASES} gave {case!r}, expected a Case whose id begins with L0 to L6"
                )
            yield case


def select(cases: list[Case], selection: Selection) -> list[Case]:
    """The cases that were asked for. Raises BadInputError, with what is known, where none is."""
    for level in (selection.level, selection.only_level):
        if level is not None and level not in LEVELS:
            raise BadInputError(f"level {level} does not exist; there are 0 to {max(LEVELS)}")
    _known("operator", selection.operator, {case.operator for case in cases})
    _known("model", selection.model, {case.model for case in cases})
    for pattern in selection.ids:
        if not any(fnmatchcase(case.id, pattern) for case in cases):
            raise BadInputError(
                f"no case is called {pattern!r}; {_near(pattern, {case.id for case in cases})}"
            )
    chosen = [case for case in cases if selection.takes(case)]
    if not chosen:
        raise BadInputError("no case is left of --level, --only-level, --op, --model and --case together")
    return chosen


def _known(what: str, name: str | None, names: set[str | None]) -> None:
    known = {n for n in names if n is not None}
    if name is not None and name not in known:
        raise BadInputError(f"no case is about the {what} {name!r}; {_near(name, known)}")


def _near(word: str, known: set[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(known)[:40])}"


def unmatched(target: Target, cases: list[Case]) -> list[str]:
    """Entries of conformance.toml that are about no case: each is an error of its own."""
    return [
        f"{entry.place or target.exceptions.file}: {entry.id!r} matches no case"
        for entry in target.exceptions.entries
        if not any(entry.covers(case.id) for case in cases)
    ]


def by_group(cases: Iterable[Case]) -> Mapping[str, list[Case]]:
    """Cases by the process they share, in the order of the first of each."""
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.group.name, []).append(case)
    return groups


def _id(case: Case) -> str:
    return case.id
