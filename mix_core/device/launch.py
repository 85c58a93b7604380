"""Start a program with a device's environment in place of this process (`mix-core run`)."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from mix_core.device import choice, settings, simulate
from mix_core.device.explanation import Explained, explain_device
from mix_core.device.values import Workload
from mix_core.errors import BadInputError, DeviceError


def replace_process(command: Sequence[str], device: str | None, workload: Workload) -> NoReturn:
    """Become `command`. Raises BadInputError when it is not a program, DeviceError for the device."""
    workload = dataclasses.replace(workload, simulate=simulate.wanted(workload))
    explained = explain_device(device, workload, needs_device=True, build=True)
    for line in explained.notes:
        print(f"mix-core: {line}", file=sys.stderr)
    environ = child_environment(explained, os.environ)
    path = shutil.which(command[0], path=environ.get("PATH"))
    if path is None:
        raise BadInputError(
            f"{command[0]!r} is no program in PATH; after -- give a command and its arguments"
        )
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(path, list(command), environ)


def child_environment(explained: Explained, environ: Mapping[str, str]) -> dict[str, str]:
    """The program's environment: the settings, and the choice of the device for a mix-core program in it."""
    result = settings.exported(explained.rows, environ, runtime=True)
    result[choice.VARIABLE] = explained.choice.name
    variable = explained.choice.candidate.profile.visible_devices_variable
    if explained.choice.index_given and simulate.TYPE in result:
        result[simulate.DEVICES] = (
            "1"  # simulated devices are alike: the program has one, and it is the first
        )
    elif explained.choice.index_given and variable is not None:
        result[variable] = _visible(explained.choice, result.get(variable), variable)
    elif explained.choice.index_given:
        result[choice.VARIABLE] = f"{explained.choice.name}:{explained.choice.index}"
    return result


def _visible(chosen: choice.Choice, visible: str | None, variable: str) -> str:
    """The one entry of the visible set that the index names."""
    if visible is None:
        return str(chosen.index)
    entries = [entry.strip() for entry in visible.split(",") if entry.strip()]
    if chosen.index >= len(entries):
        raise DeviceError(
            f"device {chosen.name}:{chosen.index} does not exist: {variable} names {len(entries)}"
        )
    return entries[chosen.index]
