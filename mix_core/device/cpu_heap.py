"""Where the CPU's tensors lie: in the heap of csrc/ops/heap.h, which Paddle takes as its allocator.

Paddle asks `posix_memalign` for each tensor, aligned to a page. Until glibc 2.38 that passes over freed
blocks of the same size, so that the process of a training step holds a tenth more memory than it needs.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from mix_core.errors import BadInputError

VARIABLE = "MIX_CPU_HEAP"
OWN, PADDLE = "mix", "paddle"

_library: ctypes.CDLL | None = None


def refuse_unknown() -> None:
    """Raise BadInputError where MIX_CPU_HEAP names no heap."""
    wanted = os.environ.get(VARIABLE, OWN)
    if wanted not in (OWN, PADDLE):
        raise BadInputError(f"{VARIABLE} is {wanted!r}, expected {OWN} or {PADDLE}; unset it for {OWN}")


def use(library: Path) -> None:
    """Let tensors of this process lie in the heap from now on, unless MIX_CPU_HEAP says `paddle`."""
    global _library
    if os.environ.get(VARIABLE) == PADDLE:
        return
    found = ctypes.CDLL(str(library))
    found.mix_use_heap.argtypes = [ctypes.c_size_t]
    found.mix_release_heap.restype = found.mix_heap_taken.restype = ctypes.c_size_t
    found.mix_use_heap(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    _library = found


def name() -> str:
    """Where tensors lie, in words."""
    return "Paddle's own allocator" if _library is None else "the heap of csrc/ops/heap.h"


def taken() -> int:
    """Bytes of the tensors that lie in the heap."""
    return 0 if _library is None else int(_library.mix_heap_taken())


def release() -> int:
    """Give the system the pages that no tensor has; how many bytes."""
    return 0 if _library is None else int(_library.mix_release_heap())
