"""Saving in the background: training goes on, errors come back, ranks' pieces become one checkpoint.

What is saved is a matrix; two ranks are two threads that meet at a barrier.
"""

from __future__ import annotations

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mix_core.device.ranks import Job
from mix_core.errors import OtherRankError, RunFailedError
from mix_core.training.checkpoint import first_fault, list_checkpoints
from mix_core.training.layout import Layout
from mix_core.training.optimizer import KeptPart
from mix_core.training.partition import part_of
from mix_core.training.saving import Saver
from mix_core.training.snapshot import Captured, Progressed
from mix_core.training.state import StateReader


@pytest.fixture(scope="module")
def paddle():
    import mix_core.device as device

    device.activate("cpu")
    import paddle

    return paddle


class Ranks:
    """A rank of some, which are threads."""

    def __init__(self, rank: int = 0, ranks: int = 1, barrier: threading.Barrier | None = None) -> None:
        self.job, self._barrier = Job(rank, ranks), barrier
        self.leads = rank == 0
        self.layout = Layout(ranks, stage=1, sharing=ranks) if ranks > 1 else Layout()

    def wait(self) -> None:
        if self._barrier is not None:
            self._barrier.wait(20)


class Matrix:
    """In the place of `snapshot.Parts`, its optimizer and its model: each rank has some rows of a matrix."""

    config = SimpleNamespace(save_optimizer=True)

    def __init__(self, tensor, ranks: Ranks) -> None:
        self.tensor, self.ranks = tensor, ranks
        self.may_write = threading.Event()
        self.may_write.set()
        self.error: OSError | None = None
        self.optimizer = self.model = self

    def tensors(self, *, model: bool):
        return [self.tensor], [self.tensor]

    def capture(self, reached: Progressed, read) -> Captured:
        return Captured(self, reached.step, {}, [], read, None)

    def named_parameters(self):
        return []

    def weights(self):
        return []

    def kept(self):
        assert self.may_write.wait(20)
        if self.error is not None:
            raise self.error
        job, whole = self.ranks.job, (5, 2)
        yield KeptPart("optimizer.mean.w", self.tensor, part_of(whole, job.rank, job.ranks), whole)

    def write_model(self, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"weights")


def saver(folder: Path, tensor, ranks: Ranks | None = None, **options) -> Saver:
    ranks = ranks or Ranks()
    return Saver(folder, Matrix(tensor, ranks), ranks, **({"limit": None} | options))


def kept(checkpoint: Path) -> np.ndarray:
    assert first_fault(checkpoint) is None
    return StateReader(checkpoint).read("optimizer.mean.w")


def test_training_goes_on_while_what_was_is_written(paddle, tmp_path):
    weights = paddle.ones([5, 2])
    saving = saver(tmp_path, weights)
    saving.prepare()
    saving.parts.may_write.clear()
    saving.save(Progressed(1, 0), goes_on=True)
    weights.scale_(7.0)
    saving.check()
    assert list_checkpoints(tmp_path) == []
    saving.parts.may_write.set()
    saving.save(Progressed(2, 0), goes_on=True)
    saving.wait()
    np.testing.assert_array_equal(kept(tmp_path / "checkpoint-1"), np.ones((5, 2), np.float32))
    np.testing.assert_array_equal(kept(tmp_path / "checkpoint-2"), np.full((5, 2), 7, np.float32))
    summary = saving.summary()
    assert (summary["saves"], summary["buffer_bytes"]) == (2, 64)
    assert 0 < summary["copying_s"] < summary["stalled_s"] and summary["writing_s"] > 0
    saving.save(Progressed(3, 0), goes_on=False)
    assert kept(tmp_path / "checkpoint-3").sum() == 70, "whole when the call returns"
    saving.close()


def test_an_error_in_the_background_is_raised_by_what_comes_next_and_once(paddle, tmp_path):
    saving = saver(tmp_path, paddle.ones([5, 2]), limit=1)
    saving.save(Progressed(1, 0), goes_on=True)
    saving.wait()
    saving.parts.error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    saving.save(Progressed(2, 0), goes_on=True)
    with pytest.raises(
        RunFailedError, match=r"checkpoint-2 could not .*no space left.*checkpoint-1 is whole"
    ):
        saving.save(Progressed(3, 0), goes_on=True)
    saving.check()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"], "neither half nor rotation"
    saving.close()


def test_ranks_write_their_own_rows_into_one_checkpoint(paddle, tmp_path):
    barrier, whole = threading.Barrier(2), np.arange(10, dtype=np.float32).reshape(5, 2)

    def train(rank: int) -> None:
        rows = part_of((5, 2), rank, 2).slices
        saving = saver(tmp_path, paddle.to_tensor(whole[rows]), Ranks(rank, 2, barrier))
        for step in (1, 2):
            saving.save(Progressed(step, 0), goes_on=step == 1)
        saving.close()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(train, range(2)))
    for step in (1, 2):
        np.testing.assert_array_equal(kept(tmp_path / f"checkpoint-{step}"), whole)
        names = {path.name for path in (tmp_path / f"checkpoint-{step}").rglob("*") if path.is_file()}
        pieces = {f"optimizer{stem}-00001-of-00001.safetensors" for stem in ("", ".rank1")}
        assert names == {"model.safetensors", "manifest.json", *pieces}


def test_a_full_disk_on_one_rank_is_told_by_both_and_leaves_no_half(paddle, tmp_path):
    barrier = threading.Barrier(2)

    def train(rank: int) -> str:
        saving = saver(tmp_path, paddle.ones([3 if rank else 2, 2]), Ranks(rank, 2, barrier))
        if rank:
            saving.parts.error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        saving.save(Progressed(1, 0), goes_on=True)
        with pytest.raises(RunFailedError) as caught:
            saving.wait()
        saving.close()
        return str(caught.value)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(train, range(2))
    assert "rank 1: checkpoint-1 could not be written" in first and "no space left" in first
    assert "checkpoint-1 could not be written" in second
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_ends_waits_for_no_other_rank(paddle, tmp_path):
    """The other rank died: what was begun is given up at once, and no half is left."""
    saving = saver(tmp_path, paddle.ones([3, 2]), Ranks(0, 2))
    saving.save(Progressed(1, 0), goes_on=True)
    assert saving.writes
    saving.close()
    with pytest.raises(OtherRankError, match="rank 1 had not written its part"):
        saving.wait()
    assert list(tmp_path.iterdir()) == []
