"""Keeping stdout for a command's result, whatever libraries print there."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

VARIABLE = "MIX_RESULT_FD"
"""Tells a process that starts itself again (to take up a device's environment) where its stdout was."""


@contextmanager
def only_results_on_stdout(wanted: bool = True) -> Iterator[Callable[[str], None]]:
    """Give a function that prints a result; until the end everything else on stdout goes to stderr.

    That holds for what C libraries write, too: file descriptor 1 itself is turned. Without `wanted` nothing
    is turned, and the function prints.
    """
    if not wanted:
        yield lambda text: print(text, flush=True)
        return
    sys.stdout.flush()
    number, owner = os.environ.pop(VARIABLE, "").partition(":")[::2]
    kept = int(number) if owner == str(os.getpid()) else os.dup(1)
    os.set_inheritable(kept, True)
    os.environ[VARIABLE] = f"{kept}:{os.getpid()}"  # exec keeps both, a child has another number
    os.dup2(2, 1)
    try:
        yield lambda text: _write(kept, text)
    finally:
        sys.stdout.flush()
        os.environ.pop(VARIABLE, None)
        os.dup2(kept, 1)
        os.close(kept)


def _write(file: int, text: str) -> None:
    with open(file, "w", encoding="utf-8", closefd=False) as out:
        out.write(text + "\n")
