"""Run a program on a simulated device that has every kernel, and keep what it called, with dtypes.

The program need not know mix-core: it gets the chip's environment, and the simulator writes its counters when
a process ends. What is recorded is judged against the chip's table afterwards, so that the first gap does not
end the audit.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mix_core.device import audit_kernels, choice, composition, settings, simulate
from mix_core.device.audit import Called, Chip
from mix_core.device.explanation import explain_device
from mix_core.device.launch import child_environment
from mix_core.device.names import AUTO
from mix_core.device.preparation import HOST
from mix_core.device.values import Workload
from mix_core.errors import BadInputError, RunFailedError


@dataclass(frozen=True)
class Recording:
    """What a program called, and the chip that it is judged by."""

    device: str
    source: str | None
    """Where the chip's table comes from; None where its plugin has none."""
    chip: Chip
    called: tuple[Called, ...]
    exit_code: int
    """The program's own."""


def record(command: Sequence[str], device: str | None, workload: Workload) -> Recording:
    """Run `command` to its end; its standard output goes to standard error.

    Raises:
        BadInputError: it is no program, or the device is none that can be simulated.
        DeviceError: the device's plugin is missing or broken.
        RunFailedError: no process of it used the device.
    """
    wanted, origin = choice.requested(device, None, os.environ)
    if wanted.name in (AUTO, HOST):
        raise BadInputError(
            f"an audit is about a chip, and the device is {wanted.name} (chosen by {origin}): name one with "
            "--device; `mix-core devices` lists them"
        )
    with tempfile.TemporaryDirectory(prefix="mix-audit-") as folder:
        asked = {simulate.TABLE: "all", simulate.KERNELS: "reference"}
        asked[simulate.COUNTERS] = str(Path(folder) / "%p.json")
        explained = explain_device(device, workload, build=True, environ={**os.environ, **asked})
        environ = child_environment(explained, {**os.environ, **asked})
        listed = environ.pop(settings.BLACKLIST, "").split(",")
        path = shutil.which(command[0], path=environ.get("PATH"))
        if path is None:
            raise BadInputError(
                f"{command[0]!r} is no program in PATH; after -- give a command and its arguments"
            )
        sys.stdout.flush()
        done = subprocess.run([path, *command[1:]], env=environ, stdout=sys.stderr.fileno(), check=False)
        reports = [json.loads(file.read_text("utf-8")) for file in sorted(Path(folder).glob("*.json"))]
    paddle = audit_kernels.ask(
        [name.strip() for name in listed if name.strip()], settings.user_environment(os.environ)
    )
    black_list = frozenset(paddle["names"].values())
    called = tuple(call for report in reports for call in _called(report, black_list))
    if not called:
        raise RunFailedError(
            f"{command[0]} ended with exit code {done.returncode} and no process of it used the device: it "
            "has to import paddle, run something and end by itself"
        )
    support = composition.operator_support(explained.choice.candidate)
    chip = Chip((support or {}).get("operators"), black_list, paddle["everywhere"], paddle["cpu"])
    source = None if chip.table is None or support is None else str(support.get("source", "the plugin"))
    return Recording(explained.choice.name, source, chip, called, done.returncode)


def _called(report: Mapping[str, Any], black_list: frozenset[str]) -> list[Called]:
    """The device's kernels of one process.

    With every kernel on the device nothing falls back, but a program that activates a device itself has its
    black list, which sends kernels to the CPU.
    """
    found = []
    for row in report["kernels"]:
        calls, size = row["calls"], row["bytes"]
        if row["kernel"] in black_list:
            calls += row["fallbacks"]
            size += row["bytes_in"] + row["bytes_out"]
        if calls:
            found.append(Called(row["kernel"], row["dtype"], calls, size))
    return found
