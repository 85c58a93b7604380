"""The part of `mix-core doctor` that runs in a process of its own: a broken library may take it down.

`python -m mix_core.device.child REPORT probe NAME`, `... REPORT host NAME` (checks that need no device) and
`... REPORT checks NAME` append JSON lines to the file REPORT. A line is written before each step, so that the
parent can name the one that a crash interrupted.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from mix_core.device.discovery import describe
from mix_core.device.values import Check


def main(argv: list[str]) -> None:
    report, task, name = Path(argv[0]), argv[1], argv[2]
    {"probe": _probe, "host": _host, "checks": _checks}[task](report, name)


def _write(report: Path, **fields: Any) -> None:
    with report.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(fields) + "\n")


def _probe(report: Path, name: str) -> None:
    from mix_core.device import choice, discovery

    _write(report, step="import of the plugin")
    plugin = discovery.load(choice.find_entry(name, discovery.find_entries()))
    _write(report, step="mix_probe")
    start = time.perf_counter()
    found = discovery.probe(plugin)
    seconds = time.perf_counter() - start
    profile = discovery.profile(plugin)
    if isinstance(profile, str):
        _write(report, state="broken", reason=profile, priority=0, seconds=seconds)
    else:
        _write(report, state=found.state, reason=found.reason, priority=profile.priority, seconds=seconds)


def _host(report: Path, name: str) -> None:
    from mix_core.device import choice, discovery

    plugin = discovery.load(choice.find_entry(name, discovery.find_entries()))
    profile = discovery.profile(plugin)
    if isinstance(profile, str):
        return  # the probe has reported it
    _write(report, not_run_on_hardware=profile.not_run_on_hardware)
    manager = discovery.new_manager()
    manager.register(plugin.module)
    _write(report, step="mix_checks")
    checks = [check for part in manager.hook.mix_checks() for check in part]
    _run(report, [check for check in checks if not check.needs_device])


def _checks(report: Path, name: str) -> None:
    from mix_core.device import activate
    from mix_core.device.operators import implementations
    from mix_core.errors import MixError

    _write(report, step="activation")
    try:
        activation = activate(name)
    except MixError as error:
        _write(report, check="activation", ok=False, detail=str(error))
        return
    memory = activation.runtime.memory_stats()
    _write(
        report, check="activation", ok=True, detail=f"{activation.place}, {memory['allocated']} bytes in use"
    )
    checks = [check for part in reversed(activation.manager.hook.mix_checks()) for check in part]
    _run(report, [check for check in checks if check.needs_device])
    _write(report, step="choice of kernels")
    for row in implementations(activation):
        _write(report, **row)
    _write(report, step="end")


def _run(report: Path, checks: list[Check]) -> None:
    from mix_core.errors import MixError

    for check in checks:
        _write(report, step=f"check {check.name!r}")
        try:
            detail, ok = str(check.run()), True
        except Exception as error:  # noqa: BLE001 (a check may raise anything; it is reported)
            detail, ok = str(error) if isinstance(error, MixError) else describe(error), False
        _write(report, check=check.name, ok=ok, detail=detail)


if __name__ == "__main__":
    main(sys.argv[1:])
