"""Paddle's errors about a device, many lines each, as one line of ours."""

from __future__ import annotations

import re

from mix_core.device import simulate
from mix_core.errors import RunFailedError

_OUT_OF_MEMORY = re.compile(
    r"Out of memory error on (?P<place>\S+?)\. Cannot allocate (?P<wanted>[\d.]+\s?\w+) memory on \S+, "
    r"available memory is only (?P<free>[\d.]+\s?\w+)\."
)
_DEVICE_FAILED = re.compile(r"CustomDevice error, the error code is : (\d+)")


class DeviceFailedError(RunFailedError):
    """An operation of the device failed; of a collective, perhaps because another rank ended."""


def as_failure(error: BaseException) -> RunFailedError | None:
    """The error of a run that an error of Paddle or of the host's memory stands for; None for any other."""
    text = str(error)
    found = _OUT_OF_MEMORY.search(text)
    if found:
        return RunFailedError(
            f"out of memory on {found['place']}: {found['wanted']} could not be allocated, "
            f"{found['free']} were free; make the batch or the pictures smaller, set recompute, or use "
            "a device with more memory"
        )
    if isinstance(error, MemoryError):
        words = " ".join(text.split()) or "no reason given"
        return RunFailedError(f"out of memory on the host: {words[:200]}; make the batch smaller")
    code = _DEVICE_FAILED.search(text)
    if code:
        device = simulate.loaded()
        said = device.last_error() if device is not None else ""
        return DeviceFailedError(
            f"the device failed with code {code[1]}{': ' + said if said else ''}; `mix-core doctor DEVICE` "
            "looks at its state"
        )
    return None
