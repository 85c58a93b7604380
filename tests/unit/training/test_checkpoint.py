"""Checkpoints on disk: publishing, rotation, finding them again, cleaning up after a kill, a full disk."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mix_core.errors import BadInputError, CheckpointError, ConfigError, RunFailedError
from mix_core.training import checkpoint, state
from mix_core.training.checkpoint import find_checkpoint, list_checkpoints, rotate, save_checkpoint
from mix_core.training.run_folder import RunFolder


def write(folder: Path, text: str = "weights") -> None:
    (folder / "model.safetensors").write_text(text)
    (folder / state.FOLDER).mkdir()
    state.write_manifest(folder / state.FOLDER, 0, {}, {})


def names(run_folder: Path) -> list[str]:
    return sorted(path.name for path in run_folder.iterdir())


def test_publish_and_list(tmp_path):
    for step in (5, 20, 100):
        save_checkpoint(tmp_path, step, write)
    (tmp_path / "checkpoint-best").mkdir()
    assert [path.name for path in list_checkpoints(tmp_path)] == [
        "checkpoint-5",
        "checkpoint-20",
        "checkpoint-100",
    ]
    assert checkpoint.is_whole(tmp_path / "checkpoint-20")


def test_publishing_the_same_step_again_replaces_it(tmp_path):
    save_checkpoint(tmp_path, 5, write)
    save_checkpoint(tmp_path, 5, lambda folder: write(folder, "others"))
    assert (tmp_path / "checkpoint-5/model.safetensors").read_text() == "others"
    assert names(tmp_path) == ["checkpoint-5"]


def test_rotation_keeps_the_newest_whole_ones(tmp_path):
    for step in (1, 2, 3, 4):
        save_checkpoint(tmp_path, step, write)
    rotate(tmp_path, None)
    assert len(list_checkpoints(tmp_path)) == 4
    (tmp_path / "checkpoint-4/model.safetensors").unlink()
    rotate(tmp_path, 2)
    assert [p.name for p in list_checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-3", "checkpoint-4"]


def test_rotation_never_removes_the_last_whole_one(tmp_path):
    save_checkpoint(tmp_path, 1, write)
    for step in (2, 3):
        save_checkpoint(tmp_path, step, write)
        (tmp_path / f"checkpoint-{step}/model.safetensors").unlink()
    rotate(tmp_path, 1)
    assert checkpoint.newest_whole(tmp_path) == tmp_path / "checkpoint-1"


def test_finding(tmp_path):
    assert find_checkpoint(tmp_path, "auto") is None and find_checkpoint(tmp_path, "no") is None
    for step in (1, 2):
        save_checkpoint(tmp_path, step, write)
    newest = tmp_path / "checkpoint-2"
    assert find_checkpoint(tmp_path, "auto") == find_checkpoint(tmp_path, "2") == newest
    assert find_checkpoint(tmp_path / "other", str(tmp_path)) == newest
    assert find_checkpoint(tmp_path / "other", str(tmp_path / "checkpoint-1")) == tmp_path / "checkpoint-1"
    (newest / "model.safetensors").write_text("w")
    assert find_checkpoint(tmp_path, "auto") == tmp_path / "checkpoint-1"
    for resume, says in (
        ("2", "is truncated: 1 bytes, expected 7; checkpoint-1 before it is whole: --resume"),
        ("9", "has no checkpoint of step 9; there are: 1, 2"),
        (str(tmp_path / "none"), "is no folder"),
        (str(tmp_path.parent), "it is no training checkpoint"),
    ):
        with pytest.raises(CheckpointError, match=says):
            find_checkpoint(tmp_path, resume)


def test_cleaning_removes_halves_and_puts_back_what_was_being_replaced(tmp_path):
    save_checkpoint(tmp_path, 1, write)
    (tmp_path / "checkpoint-1").rename(tmp_path / ".checkpoint-1.replaced")
    for name in (".checkpoint-2.partial", ".checkpoint-0.removed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text("half")
    (tmp_path / ".checkpoint-notes").mkdir()
    checkpoint.clean(tmp_path)
    assert names(tmp_path) == [".checkpoint-notes", "checkpoint-1"]
    assert checkpoint.is_whole(tmp_path / "checkpoint-1")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "no space left"),
        (OSError(errno.EFBIG, os.strerror(errno.EFBIG)), "no space left"),
        (OSError(errno.EACCES, os.strerror(errno.EACCES)), "Permission denied"),
    ],
)
def test_a_failed_write_keeps_the_last_checkpoint_and_no_half(tmp_path, error, says):
    save_checkpoint(tmp_path, 1, write)

    def fail(folder: Path) -> None:
        (folder / "model.safetensors").write_text("half")
        raise error

    with pytest.raises(
        RunFailedError, match=f"checkpoint-2 could not .*{says}.*checkpoint-1 is whole.*--resume auto"
    ):
        save_checkpoint(tmp_path, 2, fail)
    assert names(tmp_path) == ["checkpoint-1"]


def test_what_is_no_write_failure_is_not_dressed_up_as_one(tmp_path):
    def fail(folder: Path) -> None:
        raise KeyError("a mistake")

    with pytest.raises(KeyError):
        save_checkpoint(tmp_path, 1, fail)
    assert names(tmp_path) == []


def test_safetensors_own_error_about_space_is_recognised(tmp_path):
    """In a child process whose files may not grow beyond 4 kB, as on a full disk."""
    program = """
import resource, signal, sys
import numpy as np
from safetensors.numpy import save_file
from mix_core.training.checkpoint import write_failure
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    save_file({"a": np.zeros(4096, np.float32)}, sys.argv[1])
except Exception as error:
    print(type(error).__name__, "->", write_failure(error))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "a.safetensors")], capture_output=True, text=True
    )
    assert done.stdout.strip().endswith("-> no space left"), done.stdout + done.stderr


def test_run_folder_is_one_processes_own(tmp_path):
    run = tmp_path / "run"
    with RunFolder(run), pytest.raises(BadInputError, match="is in use by a run"), RunFolder(run):
        pass
    with RunFolder(tmp_path / "run") as again:
        assert not again.is_used()


def test_emptying_leaves_foreign_files(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    save_checkpoint(tmp_path, 1, write)
    with RunFolder(tmp_path) as folder:
        folder.write_json("run.json", {"a": 1})
        assert folder.read_json("run.json") == {"a": 1} and folder.read_json("results.json") is None
        with pytest.raises(ConfigError, match=r"--resume auto goes on .* --overwrite_output_dir true"):
            folder.refuse_if_used()
        folder.empty()
    assert names(tmp_path) == [".lock", "notes.txt"]


def test_later_checkpoints_stand_in_the_way_of_an_earlier_step(tmp_path):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, write)
    with RunFolder(tmp_path) as folder:
        folder.refuse_later(3, allowed=False)
        with pytest.raises(ConfigError, match="holds checkpoint-3, after step 1"):
            folder.refuse_later(1, allowed=False)
        folder.refuse_later(1, allowed=True)
        folder.drop_later(1)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-1"]
