"""The CPU's hold_weights: matrices packed once as its tile products want them (csrc/ops/held_weights.h)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

SHARE = 4
"""What is kept takes at most this part of the free memory: six bytes beside a weight's four."""


def hold(weights: Sequence[Any], addresses: Sequence[int], library: ctypes.CDLL) -> Callable[[], None]:
    """Pack float32 weights (I, O); what comes back lets them go.

    Args:
        addresses: where the host finds the numbers of each.
    """
    library.mix_held_bytes.restype = ctypes.c_int64
    shapes = [[ctypes.c_int64(axis) for axis in weight.shape] for weight in weights]
    needed = [library.mix_held_bytes(*shape) for shape in shapes]
    if not all(needed) or sum(needed) * SHARE > free_memory():
        return lambda: None
    for address, shape in zip(addresses, shapes):
        library.mix_hold_weight(ctypes.c_void_p(address), *shape)
    return partial(_release, list(weights), list(addresses), library)


def _release(weights: list[Any], addresses: list[int], library: ctypes.CDLL) -> None:
    """`weights` are here so that their memory stays theirs as long as it is held."""
    for address in addresses:
        library.mix_release_weight(ctypes.c_void_p(address))
    weights.clear()
    addresses.clear()


def free_memory() -> int:
    """Bytes that Linux would give to this process without swapping; 0 where it does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            found = dict(line.split(":", 1) for line in lines)
        return int(found["MemAvailable"].split()[0]) << 10
    except (OSError, KeyError, ValueError):
        return 0
