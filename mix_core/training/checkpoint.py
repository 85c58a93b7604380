"""Checkpoints of a run: written beside, made durable, renamed into place; rotated; found again.

    run folder/
      checkpoint-300/              published layout: config, safetensors, tokenizer, preprocessor...
        training_state/            optimizer, random state, place in the data, manifest with checksums
      .checkpoint-400.partial/     being written, or left by a killed run: removed at the next start

Whatever moment a process dies at, every `checkpoint-N` is either as it was or whole.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mix_core.errors import CheckpointError, OtherRankError, RunFailedError
from mix_core.training import state
from mix_core.training.faults import place

_NAME = re.compile(r"^checkpoint-(\d+)$")
_HIDDEN = re.compile(r"^\.(checkpoint-\d+)\.(partial|replaced|removed)$")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def checkpoint_step(path: Path) -> int | None:
    """The step in a checkpoint folder's name, or None for another name."""
    match = _NAME.match(path.name)
    return int(match[1]) if match else None


def list_checkpoints(run_folder: Path) -> list[Path]:
    """The checkpoint folders of a run, by step, oldest first, whole or not."""
    found = [(checkpoint_step(path), path) for path in run_folder.glob("checkpoint-*") if path.is_dir()]
    return [path for step, path in sorted((s, p) for s, p in found if s is not None)]


def clean(run_folder: Path) -> None:
    """Remove what a killed run left half done; put back what it was about to replace."""
    for path in run_folder.glob(".checkpoint-*"):
        match = _HIDDEN.match(path.name)
        if match is None:
            continue
        if match[2] == "replaced" and not (run_folder / match[1]).exists():
            path.rename(run_folder / match[1])
        else:
            shutil.rmtree(path)


def save_checkpoint(run_folder: Path, step: int, write: Callable[[Path], None]) -> Path:
    """Let `write` fill a new folder and publish it as `checkpoint-STEP`, replacing one of that name.

    Raises:
        RunFailedError: there is no space, or the folder cannot be written; the partial folder is gone then
            and earlier checkpoints are untouched.
    """
    with _named_failure(run_folder, step):
        begin(run_folder, step)
        return publish(run_folder, step, write)


def begin(run_folder: Path, step: int) -> Path:
    """Make the empty folder of a checkpoint that is yet to be written. Raises as `save_checkpoint`."""
    partial = partial_folder(run_folder, step)
    with _named_failure(run_folder, step):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
    return partial


def partial_folder(run_folder: Path, step: int) -> Path:
    return run_folder / f".checkpoint-{step}.partial"


def publish(run_folder: Path, step: int, write: Callable[[Path], None]) -> Path:
    """Let `write` fill the folder that `begin` made, and give it its name. Raises as `save_checkpoint`."""
    partial = partial_folder(run_folder, step)
    final = run_folder / f"checkpoint-{step}"
    with _named_failure(run_folder, step):
        try:
            write(partial)
            _sync_tree(partial)
            place("checkpoint-state")
            if final.exists():
                replaced = run_folder / f".checkpoint-{step}.replaced"
                final.rename(replaced)
                partial.rename(final)
                shutil.rmtree(replaced)
            else:
                partial.rename(final)
            sync(run_folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    place("checkpoint-renamed")
    return final


def contribute(run_folder: Path, step: int, write: Callable[[Path], None]) -> None:
    """Let `write` add this rank's files to a folder that the first rank publishes.

    Raises:
        RunFailedError: as `save_checkpoint`.
        OtherRankError: the first rank has given this checkpoint up.
    """
    partial = partial_folder(run_folder, step)
    with _named_failure(run_folder, step):
        try:
            write(partial)
        except FileNotFoundError as error:
            if partial.is_dir():
                raise
            raise OtherRankError(f"checkpoint-{step} was given up by the first rank") from error


@contextmanager
def _named_failure(run_folder: Path, step: int) -> Iterator[None]:
    """Say which checkpoint could not be written, why, and what there is."""
    try:
        yield
    except BaseException as error:
        reason = write_failure(error)
        if reason is None:
            raise
        raise RunFailedError(_not_written(run_folder, step, reason)) from error


def write_failure(error: BaseException) -> str | None:
    """Why a file could not be written, or None when the error is about something else.

    safetensors reports the system's errors as its own, with their text.
    """
    if isinstance(error, OSError):
        return "no space left" if error.errno in _FULL else f"{error.strerror or error}"
    text = str(error)
    if type(error).__name__ != "SafetensorError":
        return None
    full = any(os.strerror(number) in text for number in _FULL)
    return "no space left" if full else text


def _not_written(run_folder: Path, step: int, reason: str) -> str:
    kept = newest_whole(run_folder)
    last = f"{kept.name} is whole" if kept else "there is no earlier one"
    try:
        free = f" ({shutil.disk_usage(run_folder).free >> 20} MiB free)"
    except OSError:
        free = ""
    return (
        f"checkpoint-{step} could not be written to {run_folder}: {reason}{free}; {last}; make room, then go "
        "on with --resume auto"
    )


def rotate(run_folder: Path, limit: int | None, best_step: int | None = None) -> None:
    """Keep the newest `limit` checkpoints that are whole. Without a whole one nothing is removed.

    The checkpoint of `best_step` is one of them, however old; the newest is kept beside it even with a limit
    of 1.
    """
    if limit is None:
        return
    paths = list_checkpoints(run_folder)
    whole = [path for path in paths if is_whole(path, checksums=False)]
    steps = [checkpoint_step(path) or 0 for path in whole]
    if best_step in steps and best_step not in steps[-limit:]:
        limit = max(1, limit - 1)
    if len(whole) <= limit:
        return
    for path in paths:
        step = checkpoint_step(path) or 0
        if step < steps[-limit] and step != best_step:
            remove(path)


def remove(checkpoint: Path) -> None:
    """Remove a checkpoint; no half of it is ever seen under its name."""
    removed = checkpoint.with_name(f".{checkpoint.name}.removed")
    shutil.rmtree(removed, ignore_errors=True)
    checkpoint.rename(removed)
    place("rotation")
    shutil.rmtree(removed)


def first_fault(checkpoint: Path, *, checksums: bool = True) -> str | None:
    """What keeps a checkpoint from being whole; None when all its files are there as they were written."""
    return next(state.faults(checkpoint, checksums=checksums), None)


def is_whole(checkpoint: Path, *, checksums: bool = True) -> bool:
    return first_fault(checkpoint, checksums=checksums) is None


def newest_whole(run_folder: Path) -> Path | None:
    """The newest checkpoint that is whole, contents included."""
    return next((path for path in reversed(list_checkpoints(run_folder)) if is_whole(path)), None)


def find_checkpoint(run_folder: Path, resume: str) -> Path | None:
    """The checkpoint that `--resume` means: no, auto, a step, or a path.

    Raises:
        CheckpointError: it is not there or not whole (`auto` passes over one that is not whole, with a line).
    """
    if resume == "no":
        return None
    if resume == "auto":
        return newest_whole(run_folder)
    if resume.isdigit():
        path = run_folder / f"checkpoint-{resume}"
        if not path.is_dir():
            there = ", ".join(str(checkpoint_step(p)) for p in list_checkpoints(run_folder)) or "none"
            raise CheckpointError(
                f"resume: {run_folder} has no checkpoint of step {resume}; there are: {there}"
            )
    else:
        path = _checkpoint_at(Path(resume))
    fault = first_fault(path)
    if fault is not None:
        before = whole_before(path)
        offer = f"; {before.name} before it is whole: --resume {before}" if before else ""
        raise CheckpointError(f"resume: {fault}{offer}")
    return path


def whole_before(checkpoint: Path) -> Path | None:
    """The newest whole checkpoint beside this one that is older."""
    step = checkpoint_step(checkpoint)
    older = [one for one in list_checkpoints(checkpoint.parent) if (checkpoint_step(one) or 0) < (step or 0)]
    return next((one for one in reversed(older) if is_whole(one)), None)


def _checkpoint_at(path: Path) -> Path:
    """A path that a user named: a checkpoint itself, or the newest whole one of a run folder."""
    if not path.is_dir():
        raise CheckpointError(f"resume: {path} is no folder; give no, auto, a step, or a checkpoint's path")
    of_run = list_checkpoints(path)
    if (path / state.FOLDER).is_dir() or not of_run:
        return path
    return newest_whole(path) or of_run[-1]


def sync(folder: Path) -> None:
    """Make a folder's entries durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_tree(folder: Path) -> None:
    for root, _, files in os.walk(folder):
        for name in files:
            with open(os.path.join(root, name), "rb") as file:
                os.fsync(file.fileno())
        sync(Path(root))
