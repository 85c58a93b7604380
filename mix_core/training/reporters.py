"""What metrics.jsonl holds, sent to TensorBoard, VisualDL or Weights & Biases too (`report_to`).

Each needs a package of its own, which is imported when its reporter starts and not before. Names follow
transformers' Trainer: `train/loss`, `eval/digit_exact`, and `modules/model.layers.3/grad_norm`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mix_core.errors import ConfigError, RunFailedError
from mix_core.training.metrics import plain

if TYPE_CHECKING:
    from mix_core.config import RunConfig

FOLDER = "curves"


class Reporter(Protocol):
    """One place that shows curves."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Take finite numbers by their names there."""

    def close(self) -> None:
        """Bring everything to where it belongs."""


class TensorBoard:
    """Event files in a folder. A resumed run hides what its folder holds of later steps."""

    def __init__(self, folder: Path, config: RunConfig, resume_step: int | None) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = Event, Summary
        self._writer = EventFileWriter(str(folder))
        if resume_step is not None:
            start = SessionLog(status=SessionLog.START)
            self._writer.add_event(Event(step=resume_step + 1, wall_time=time.time(), session_log=start))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        scalars = [self._summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        summary = self._summary(value=scalars)
        self._writer.add_event(self._event(step=step, wall_time=time.time(), summary=summary))

    def close(self) -> None:
        self._writer.close()


class VisualDL:
    """Record files in a folder; a resumed run adds one."""

    def __init__(self, folder: Path, config: RunConfig, resume_step: int | None) -> None:
        from visualdl import LogWriter

        self._writer = LogWriter(logdir=str(folder))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for tag, value in values.items():
            self._writer.add_scalar(tag=tag, value=value, step=step)

    def close(self) -> None:
        self._writer.close()


class WandB:
    """A run of Weights & Biases; its own variables say where to (WANDB_PROJECT, WANDB_MODE=offline...).

    The run's id follows from the run folder, so that a resumed run goes on in the same curves.
    """

    def __init__(self, folder: Path, config: RunConfig, resume_step: int | None) -> None:
        import wandb

        place = Path(config.output_dir or "run").resolve()
        self._run = wandb.init(
            dir=str(folder),
            name=place.name,
            id=hashlib.sha256(str(place).encode()).hexdigest()[:16],
            resume="allow" if resume_step is not None else None,
            config=config.model_dump(mode="json"),
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


REPORTERS: dict[str, type] = {"tensorboard": TensorBoard, "visualdl": VisualDL, "wandb": WandB}


def check_installed(config: RunConfig) -> None:
    """Raises ConfigError where a package that report_to needs is missing; imports none."""
    for name in config.report_to or []:
        if find_spec(name) is None:
            raise ConfigError(
                f"report_to names {name}, which is not installed: pip install {name}; or leave it out of "
                "report_to, metrics.jsonl has every value"
            )


class Reporters:
    """All that report_to names; a context manager."""

    def __init__(self, config: RunConfig, output_dir: Path, resume_step: int | None) -> None:
        """`resume_step`: the step that the run goes on from, None for a new one.

        Raises:
            RunFailedError: a service refuses, or its package is broken.
        """
        root = Path(config.logging_dir) if config.logging_dir else output_dir / FOLDER
        self._reporters: list[Reporter] = []
        for name in config.report_to or []:
            folder = root / name
            try:
                folder.mkdir(parents=True, exist_ok=True)
                self._reporters.append(REPORTERS[name](folder, config, resume_step))
            except Exception as error:
                self.close()
                raise RunFailedError(
                    f"report_to {name} does not start: {' '.join(str(error).split()) or type(error).__name__}"
                    "; mend that or leave it out of report_to"
                ) from error

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Send a line of metrics.jsonl; what is no finite number is left out."""
        if self._reporters:
            scalars = dict(_scalars(values))
            for reporter in self._reporters:
                reporter.write(step, scalars)

    def close(self) -> None:
        for reporter in self._reporters:
            reporter.close()
        self._reporters = []

    def __enter__(self) -> Reporters:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _scalars(values: Mapping[str, Any]) -> list[tuple[str, float]]:
    """(name at the reporters, number) of a line's values."""
    found: list[tuple[str, float]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            for inner, numbers in value.items():
                found += [(f"{name}/{inner}/{word}", number) for word, number in numbers.items()]
        elif name.startswith("eval_"):
            found.append((f"eval/{name.removeprefix('eval_')}", value))
        else:
            found.append((f"train/{name}", value))
    numbers_only = ((name, plain(value)) for name, value in found)
    return [(name, float(value)) for name, value in numbers_only if isinstance(value, (bool, int, float))]
