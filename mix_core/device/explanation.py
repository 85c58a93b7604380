"""What `mix-core explain` and `mix-core run` need: the final settings of a device, without starting it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from mix_core.device import choice, settings
from mix_core.device.preparation import prepare
from mix_core.device.values import Workload
from mix_core.errors import BadInputError

TASKS = ("understanding", "generation")


@dataclass(frozen=True)
class Explained:
    """The settings of a device as they would be applied here and now, and what else is worth a line."""

    choice: choice.Choice
    rows: list[settings.SettingRow]
    notes: tuple[str, ...]


def parse_workload(task: str, model: str | None = None, simulate: bool = False) -> Workload:
    """The workload that command line options describe. Raises BadInputError for an unknown task."""
    if task not in TASKS:
        raise BadInputError(f"--workload {task!r} is neither {' nor '.join(TASKS)}")
    return Workload(
        task="generation" if task == "generation" else "understanding", model=model, simulate=simulate
    )


def explain_device(
    name: str | None,
    workload: Workload,
    *,
    needs_device: bool = False,
    build: bool = False,
    environ: Mapping[str, str] | None = None,
) -> Explained:
    """Compose a device's settings. With `workload.simulate` those of the host's processor lie beneath, and
    `build` builds the simulator where it is not yet."""
    user = settings.user_environment(os.environ if environ is None else environ)
    prepared = prepare(name, None, workload, user, needs_device=needs_device, build=build)
    chosen, composed = prepared.choice, prepared.composed
    probe = chosen.candidate.probe
    notes = [*chosen.skipped, *composed.warnings]
    if probe.state != "usable" and not workload.simulate:
        notes.append(f"device {chosen.name} is {probe.state} here: {probe.reason}")
    if not composed.rows:
        notes.append(f"the plugin of {chosen.name} makes no settings: Paddle's defaults apply")
    return Explained(chosen, composed.rows, tuple(notes))
