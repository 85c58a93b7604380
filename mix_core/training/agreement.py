"""What has to be the same for all ranks of a run: versions, and the device's plugin."""

from __future__ import annotations

import json
import platform
import zlib
from collections.abc import Mapping
from importlib import metadata
from typing import TYPE_CHECKING

import numpy as np

from mix_core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mix_core.device.ranks import Job

OWN = "mix-core"
_ROOM = 2048
"""Bytes for what a rank says."""


def identity(plugin: str, *, simulate: bool) -> dict[str, str]:
    """Of this process, by name. `plugin`: the label of the device's plugin, with its version."""
    found = {"plugin": f"{plugin}, simulated" if simulate else plugin}
    found["python"] = ".".join(platform.python_version_tuple()[:2])
    paddles = {name for one in metadata.distributions() if (name := one.name.lower()).startswith("paddle")}
    return found | {name: metadata.version(name) for name in (OWN, *sorted(paddles))}


def differences(mine: Mapping[str, str], its: Mapping[str, str]) -> tuple[str, str] | None:
    """In words, what each of two has where they differ; None where they do not."""
    names = dict.fromkeys(name for name in (*mine, *its) if mine.get(name) != its.get(name))
    if not names:
        return None
    first, second = (", ".join(f"{name} {one.get(name, 'absent')}" for name in names) for one in (mine, its))
    return first, second


def check_ranks(job: Job, own: Mapping[str, str], most: Callable[[np.ndarray], np.ndarray]) -> None:
    """Compare what all ranks say of themselves, each through a checksum first.

    Args:
        most: int32 values -> the largest of all ranks at each place.
    Raises:
        ConfigError: two ranks differ; all ranks raise it.
    """
    if job.ranks == 1:
        return
    text = json.dumps(dict(own)).encode()[:_ROOM]
    code = zlib.crc32(text) >> 1  # 31 bits
    highest, lowest = most(np.array([code, -code], np.int32))
    if highest == -lowest:
        return
    # every rank that has another checksum than the highest gives its number; the highest such one is named
    (other,) = most(np.array([job.rank if code != highest else -1], np.int32))
    (one,) = most(np.array([job.rank if code == highest else -1], np.int32))
    said = {}
    for rank in (min(one, other), max(one, other)):
        words = np.zeros(_ROOM, np.int32)
        if rank == job.rank:
            words[: len(text)] = np.frombuffer(text, np.uint8)
        said[rank] = json.loads(bytes(most(words).astype(np.uint8)).rstrip(b"\0"))
    (a, mine), (b, its) = said.items()
    first, second = differences(mine, its) or ("?", "?")
    raise ConfigError(
        f"ranks differ: {first} on rank {a}, {second} on rank {b}; install the same for all ranks"
    )
