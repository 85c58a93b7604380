"""What `mix-core explain` and `mix-core run` need: the final settings of a device, without starting it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from mix_core.device import choice, composition, settings
from mix_core.device.discovery import find_entries
from mix_core.device.values import Workload
from mix_core.errors import BadInputError

HOST = "cpu"
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
    environ: Mapping[str, str] | None = None,
) -> Explained:
    """Compose a device's settings. With `workload.simulate` those of the host's processor lie beneath."""
    user = settings.user_environment(os.environ if environ is None else environ)
    chosen = choice.choose(name, None, user, needs_device=needs_device)
    beneath = None
    if workload.simulate and chosen.name != HOST:
        beneath = choice.load_candidate(choice.find_entry(HOST, find_entries(environ=user)))
    composed = composition.compose(chosen.candidate, workload, user, beneath=beneath)
    probe = chosen.candidate.probe
    notes = [*chosen.skipped, *composed.warnings]
    if probe.state != "usable" and not workload.simulate:
        notes.append(f"device {chosen.name} is {probe.state} here: {probe.reason}")
    if not composed.rows:
        notes.append(f"the plugin of {chosen.name} makes no settings: Paddle's defaults apply")
    return Explained(chosen, composed.rows, tuple(notes))
