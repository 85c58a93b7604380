"""The faults a simulated device can make on demand, and their spelling.

`part:effect[,key=value]...`, several separated by `;`; csrc/sim/faults.h has the same list.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from mix_core.errors import BadInputError


@dataclass(frozen=True)
class FaultKind:
    """One fault: what happens, and the settings it takes."""

    meaning: str
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ("nth",)


KINDS = {
    "alloc:fail": FaultKind("an allocation fails", optional=("nth", "above")),
    "copy:fail": FaultKind("a copy is refused"),
    "copy:corrupt": FaultKind("a copy changes one byte"),
    "all_reduce:wrong": FaultKind("an all_reduce gives a wrong last number"),
    "event:drop": FaultKind("an event is not recorded, so that nobody waits for it"),
    "stream:stall": FaultKind("work on a stream starts late", required=("ms",)),
    "rank:dead": FaultKind("a rank is killed at a collective", required=("rank",)),
    "rank:slow": FaultKind("a rank comes late to a collective", required=("rank", "ms")),
    "results:bfloat16": FaultKind("float32 results are rounded to bfloat16", optional=()),
    "operator:wrong": FaultKind("an operator's first number is wrong", required=("name",)),
    "operator:missing": FaultKind(
        "the device has no kernel for an operator", required=("name",), optional=()
    ),
}


def check_faults(text: str) -> None:
    """Raise BadInputError, with what is known, when `text` is no list of faults."""
    for fault in filter(None, text.split(";")):
        head, *settings = fault.split(",")
        kind = KINDS.get(head)
        if kind is None:
            near = difflib.get_close_matches(head, KINDS, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise BadInputError(f"simulated fault {head!r} is unknown; {hint}known are {', '.join(KINDS)}")
        given = dict(setting.partition("=")[::2] for setting in settings)
        for key, value in given.items():
            if key not in kind.required + kind.optional:
                takes = ", ".join(kind.required + kind.optional) or "no settings"
                raise BadInputError(f"simulated fault {head!r} has no setting {key!r}; it takes {takes}")
            if key != "name" and not value.isdigit():
                raise BadInputError(f"simulated fault {head!r}: {key} must be a whole number, not {value!r}")
        missing = [key for key in kind.required if not given.get(key)]
        if missing:
            raise BadInputError(f"simulated fault {head!r} needs {missing[0]}=...")
