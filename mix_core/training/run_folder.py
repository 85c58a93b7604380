"""The folder of one run: who may use it, what may be removed from it, and its JSON files."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

from mix_core.data.skipped import FILE as SKIPPED
from mix_core.errors import BadInputError, ConfigError
from mix_core.training import checkpoint

RECORD = "run.json"
RESULTS = "results.json"
METRICS = "metrics.jsonl"
REPORT = "report.html"
LOCK = ".lock"
LOGS = "logs"
"""What each rank of a run with several says, and the launcher."""
_OWN = (RECORD, RESULTS, METRICS, SKIPPED, "gallery.json", "gallery", REPORT, "curves", LOCK)
"""What runs write, besides checkpoints; overwrite_output_dir removes nothing else."""


def read_json(path: Path) -> Any:
    """The contents of a JSON file, or None where it is absent or torn."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


class RunFolder:
    """Holds a run folder for this process alone, from `with` to its end.

    Of several ranks the first one holds it; the others (`leads` false) only read what is there.

    Raises:
        BadInputError: the folder cannot be made or written, or another run is using it.
    """

    def __init__(self, path: str | Path, *, leads: bool = True) -> None:
        self.path = Path(path)
        self.leads = leads
        self._lock: Any = None
        self._made = False

    def __enter__(self) -> RunFolder:
        if not self.leads:
            return self
        self._made = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / LOCK, "a+", encoding="utf-8")
        except OSError as error:
            raise BadInputError(
                f"output_dir {self.path} cannot be written: {error.strerror}; give another --output_dir"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.seek(0)
            holder = self._lock.read().strip() or "another process"
            self._lock.close()
            raise BadInputError(
                f"output_dir {self.path} is in use by a run ({holder}); give another --output_dir, or wait"
            ) from None
        self._lock.truncate(0)
        self._lock.write(f"process {os.getpid()}\n")
        self._lock.flush()
        checkpoint.clean(self.path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.leads:
            return
        if error is not None and self._made and not self.is_used():
            (self.path / LOCK).unlink()  # bad input, found before anything was written: leave no empty folder
            self.path.rmdir()
        self._lock.close()

    def is_used(self) -> bool:
        """Whether there is anything in it but the lock and the logs of ranks that start."""
        # of several ranks the first one makes the folder, perhaps after this one looks
        return self.path.is_dir() and any(path.name not in (LOCK, LOGS) for path in self.path.iterdir())

    def refuse_if_used(self) -> None:
        """A run that is not resumed wants an empty folder."""
        if self.is_used():
            raise ConfigError(
                f"output_dir {self.path} is not empty; --resume auto goes on with the run in it, "
                "--overwrite_output_dir true removes that run and starts anew"
            )

    def empty(self) -> None:
        """Remove what runs write, and nothing else."""
        for path in checkpoint.list_checkpoints(self.path):
            checkpoint.remove(path)
        for name in _OWN:
            path = self.path / name
            if name == LOCK:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def later_than(self, step: int) -> list[Path]:
        """Checkpoints after a step."""
        paths = checkpoint.list_checkpoints(self.path)
        return [path for path in paths if (checkpoint.checkpoint_step(path) or 0) > step]

    def refuse_later(self, step: int, *, allowed: bool) -> None:
        """A run that goes on from `step` cannot share its folder with later checkpoints of another past.

        Raises:
            ConfigError: there are some and overwrite_output_dir does not allow to remove them.
        """
        later = self.later_than(step)
        if later and not allowed:
            raise ConfigError(
                f"{self.path} holds {later[-1].name}, after step {step}; --overwrite_output_dir true removes "
                "checkpoints after the step to resume from, another --output_dir keeps them"
            )

    def drop_later(self, step: int) -> None:
        for path in self.later_than(step):
            checkpoint.remove(path)

    def read_json(self, name: str) -> Any:
        """The contents of one of the run's JSON files, or None where it is absent or torn."""
        return read_json(self.path / name)

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file so that a reader sees the old one or the new one, never a part."""
        if not self.leads:
            return
        beside = self.path / f".{name}.new"
        with beside.open("w", encoding="utf-8") as file:
            json.dump(value, file, indent=2, ensure_ascii=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, self.path / name)
