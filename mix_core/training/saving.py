"""Saving while training goes on: one copy into host memory, then a thread that writes it to files.

Training stands still for the copy alone, and for what is left of the write before, if that is not done yet:
there is one buffer. An error of the write is raised by the next `check` or `save`. Where ranks share what is
to be saved, each writes its own pieces; the first rank waits for the others' and publishes the checkpoint.
Nothing here is a collective, but for one meeting before the copy: the threads of different ranks know nothing
of the order in which training talks.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from mix_core.errors import OtherRankError, RunFailedError
from mix_core.training import checkpoint, state
from mix_core.training.host_copy import HostCopy

if TYPE_CHECKING:
    from mix_core.training.parallel import Ranks
    from mix_core.training.snapshot import Captured, Parts, Progressed

WAIT_S = 1800.0
"""How long the first rank waits for the others' files."""
_POLL_S = 0.01


class Saver:
    """Writes the checkpoints of one run.

    Args:
        limit: how many to keep; None: all.
    """

    def __init__(self, run_folder: Path, parts: Parts, ranks: Ranks, *, limit: int | None) -> None:
        self.run_folder, self.parts, self.ranks, self.limit = run_folder, parts, ranks, limit
        self.writers = ranks.layout.writers
        """Ranks that write what they have; the first one puts it together."""
        self.spent: dict[str, float] = {"saves": 0, "stalled_s": 0.0, "copying_s": 0.0, "writing_s": 0.0}
        """Over the run: times saved, seconds that training stood still for it, seconds of these that went
        into the copy, seconds that threads wrote."""
        self._copy: HostCopy | None = None
        self._threads = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None
        self._ends = Event()
        """Set when this rank waits for nobody any more."""

    def prepare(self) -> None:
        """Get the copy's memory in the background, so that the first save does not wait for it."""
        if self.ranks.job.rank in self.writers:
            self._copy = HostCopy(*self.parts.tensors(model=self.ranks.leads))
            self._writing = self._threads.submit(self._copy.prepare)

    def save(self, reached: Progressed, *, goes_on: bool) -> None:
        """Save what the run has reached. Unless training goes on, the checkpoint is whole on return.

        Raises:
            RunFailedError: this one, or the one before, could not be written.
        """
        started = time.perf_counter()
        self.wait()
        alone = self.writers == 1 and goes_on
        if self.ranks.leads and not alone:
            checkpoint.begin(self.run_folder, reached.step)
        if len(self.writers) > 1:
            self.ranks.wait()
        if self.ranks.job.rank in self.writers:
            if goes_on:
                captured = self.parts.capture(reached, self._copied().read)
                self._writing = self._threads.submit(self._write_timed, captured, begins=alone)
            else:
                self._write(self.parts.capture(reached, lambda tensor: tensor.numpy()))
        self.spent["saves"] += 1
        self.spent["stalled_s"] += time.perf_counter() - started

    def check(self) -> None:
        """Raise what a write in the background met, once."""
        if self._writing is not None and self._writing.done():
            self.wait()

    @property
    def writes(self) -> bool:
        """Whether files are being written now."""
        return self._writing is not None and not self._writing.done()

    def wait(self) -> None:
        """Until everything that was saved is on disk. Raises as `check`."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Finish what this rank writes itself, and pass over errors: the run has one to tell, or was told."""
        self._ends.set()
        self._threads.shutdown()

    def summary(self) -> dict[str, float]:
        """For run.json."""
        return self.spent | {"buffer_bytes": self._copy.size_bytes if self._copy is not None else 0}

    def _copied(self) -> HostCopy:
        if self._copy is None:
            self._copy = HostCopy(*self.parts.tensors(model=self.ranks.leads))
        started = time.perf_counter()
        self._copy.take()
        self.spent["copying_s"] += time.perf_counter() - started
        return self._copy

    def _write_timed(self, captured: Captured, *, begins: bool) -> None:
        """`begins`: the folder is made here too, which may wait for the file system's other work."""
        started = time.perf_counter()
        try:
            if begins:
                checkpoint.begin(self.run_folder, captured.step)
            self._write(captured)
        finally:
            self.spent["writing_s"] += time.perf_counter() - started

    def _write(self, captured: Captured) -> None:
        if self.ranks.leads:
            checkpoint.publish(self.run_folder, captured.step, lambda folder: self._fill(captured, folder))
            checkpoint.rotate(self.run_folder, self.limit, captured.best_step)
            return
        try:
            checkpoint.contribute(
                self.run_folder, captured.step, lambda folder: self._share(captured, folder)
            )
        except RunFailedError as error:
            with suppress(OSError):
                partial = checkpoint.partial_folder(self.run_folder, captured.step)
                state.write_json(_word_of(partial, self.ranks.job.rank), {"failed": str(error)})
            raise

    def _fill(self, captured: Captured, folder: Path) -> None:
        words = (_wait_for(folder, rank, self._ends) for rank in self.writers[1:])
        captured.write(folder, words)

    def _share(self, captured: Captured, folder: Path) -> None:
        rank, inner = self.ranks.job.rank, folder / state.FOLDER
        inner.mkdir(exist_ok=True)
        state.write_json(_word_of(folder, rank), captured.write_share(inner, f".rank{rank}"))


def _word_of(partial: Path, rank: int) -> Path:
    """Where a rank says that its files are there, or why not."""
    return partial / f"rank{rank}.json"


def _wait_for(partial: Path, rank: int, ends: Event) -> dict[str, Any]:
    """What a rank says that has written its files. Raises RunFailedError."""
    path, end = _word_of(partial, rank), time.monotonic() + WAIT_S
    while not path.is_file():
        if time.monotonic() > end:
            raise RunFailedError(
                f"rank {rank} has not written its part of {partial} in {WAIT_S:.0f} s; do all ranks see one "
                "output_dir?"
            )
        if ends.wait(_POLL_S):
            raise OtherRankError(f"rank {rank} had not written its part of {partial} when this one ended")
    word = json.loads(path.read_text(encoding="utf-8"))
    if "failed" in word:
        raise RunFailedError(f"rank {rank}: {word['failed']}")
    path.unlink()
    return dict(word)
