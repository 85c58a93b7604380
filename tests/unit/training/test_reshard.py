"""Pieces of any number of ranks give the same tensors, and are cut again for any other number."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mix_core.errors import CheckpointError, ConfigError
from mix_core.training import state
from mix_core.training.checkpoint import first_fault
from mix_core.training.partition import Box, part_of, whole_box
from mix_core.training.reshard import reshard
from mix_core.training.state import Piece, StateReader

SHAPES = st.lists(st.integers(1, 7), min_size=0, max_size=3).map(tuple)
RANKS = st.integers(1, 5)


def numbers(shape: tuple[int, ...]) -> np.ndarray:
    return np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)


def cut(length: int, parts: int) -> list[slice]:
    ends = [length * i // parts for i in range(parts + 1)]
    return [slice(*ends[i : i + 2]) for i in range(parts)]


def write_checkpoint(folder: Path, tensors: dict[str, np.ndarray], rows: int, columns: int) -> Path:
    """As `rows` x `columns` ranks would write it: sharded along rows, tensor parallel along columns."""
    inner = folder / state.FOLDER
    inner.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    parts = []
    for row in range(rows):
        for column in range(columns):
            pieces = []
            for name, whole in tensors.items():
                box = part_of(whole.shape, row, rows)
                if len(box.shape) != whole.ndim:
                    continue
                slices = list(box.slices)
                if whole.ndim > 1:
                    slices[1] = cut(whole.shape[1], columns)[column]
                elif column:
                    continue
                offset = tuple(one.start for one in slices)
                pieces.append((name, Piece(np.array(whole[tuple(slices)]), offset, whole.shape)))
            parts.append(state.write_pieces(inner, f"optimizer.rank{row}.{column}", pieces))
    random = state.write_pieces(inner, "random", [("random.engine", state.whole_piece(numbers((6,))))])
    state.write_manifest(inner, 3, {"seed": 1}, state.joined([*parts, random]))
    return folder


@given(shape=SHAPES, ranks=RANKS)
def test_parts_cover_a_tensor_once(shape, ranks):
    seen = np.zeros(shape, int)
    for index in range(ranks):
        box = part_of(shape, index, ranks)
        if len(box.shape) == len(shape):
            seen[box.slices] += 1
    assert (seen == 1).all()


@given(data=st.data(), shape=SHAPES)
def test_what_two_boxes_share_is_what_slices_share(data, shape):
    def box() -> Box:
        ends = [sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in shape]
        return Box(tuple(a for a, _ in ends), tuple(b - a for a, b in ends))

    one, other, whole = box(), box(), numbers(shape)
    common = one.common(other)
    shared = np.intersect1d(whole[one.slices], whole[other.slices])
    if common is None:
        assert not shared.size
    else:
        np.testing.assert_array_equal(whole[one.slices][common.inside(one)], whole[common.slices])
        np.testing.assert_array_equal(np.sort(whole[common.slices], axis=None), shared)


@settings(max_examples=25)
@given(data=st.data(), shapes=st.lists(SHAPES, min_size=1, max_size=3))
def test_any_layout_in_any_layout_out(data, shapes):
    """2x1 to 1x2 to 1x1 to 4, and others: every tensor, and any box of it, stays what it was."""
    tensors = {f"optimizer.mean.{i}": numbers(shape) + i for i, shape in enumerate(shapes)}
    grid = data.draw(st.sampled_from([(2, 1), (1, 2), (1, 1), (4, 1), (2, 2), (3, 2)]))
    with tempfile.TemporaryDirectory() as name:
        at = write_checkpoint(Path(name) / "checkpoint-3", tensors, *grid)
        for number, ranks in enumerate(data.draw(st.lists(RANKS, min_size=1, max_size=3))):
            manifest = reshard(at, Path(name) / f"again-{number}", ranks)
            at = Path(name) / f"again-{number}"
            assert manifest["state"] == {"seed": 1, "ranks": ranks} and first_fault(at) is None
            assert (at / "model.safetensors").read_bytes() == b"weights"
        reader = StateReader(at)
        np.testing.assert_array_equal(reader.read("random.engine"), numbers((6,)))
        for tensor, values in tensors.items():
            np.testing.assert_array_equal(reader.read(tensor), values)
            index, parts = data.draw(st.integers(0, 2)), 3
            box = part_of(values.shape, index, parts)
            if len(box.shape) == values.ndim:
                np.testing.assert_array_equal(reader.read(tensor, box), values[box.slices])


def test_a_damaged_checkpoint_is_not_resharded_and_nothing_is_left(tmp_path):
    source = write_checkpoint(tmp_path / "checkpoint-3", {"optimizer.mean.w": numbers((4, 3))}, 2, 1)
    with pytest.raises(ConfigError, match="ranks is 0"):
        reshard(source, tmp_path / "out", 0)
    with pytest.raises(ConfigError, match="is there already"):
        reshard(source, source, 2)
    shard = next((source / state.FOLDER).glob("optimizer.rank1*"))
    shard.unlink()
    with pytest.raises(CheckpointError, match=f"{shard.name} is missing"):
        reshard(source, tmp_path / "out", 2)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-3"]


def command(*words: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "mix_core.cli.main", "checkpoint", *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True)


def test_the_commands(tmp_path):
    """verify names a flipped bit and the checkpoint before; show and reshard say what they see and made."""
    for step in (3, 6):
        write_checkpoint(tmp_path / f"checkpoint-{step}", {"optimizer.mean.w": numbers((4, 3))}, 2, 1)
    done = command("verify", tmp_path)
    assert done.returncode == 0 and done.stdout.count(": whole, 4 files") == 2, done.stdout + done.stderr
    done = command("reshard", tmp_path, "--out", tmp_path / "one", "--ranks", 1)
    assert done.returncode == 0 and "step 3, 2 tensors in 2 pieces" in done.stdout, done.stderr
    shown = command("show", tmp_path / "one").stdout
    assert "written by one rank" in shown and "optimizer.mean         1 tensors in     1 pieces" in shown
    shard = next((tmp_path / "checkpoint-6" / state.FOLDER).glob("optimizer.rank0*"))
    flipped = bytearray(shard.read_bytes())
    flipped[-1] ^= 4
    shard.write_bytes(flipped)
    done = command("verify", tmp_path / "checkpoint-6")
    assert done.returncode == 1 and f"{shard.name} is damaged" in done.stdout
    assert f"go on from {tmp_path / 'checkpoint-3'}" in done.stdout
    shutil.rmtree(tmp_path / "checkpoint-3")
    assert "no checkpoint here is whole" in command("verify", tmp_path).stdout
    done = command("verify", tmp_path / "nowhere")
    assert done.returncode == 2 and done.stderr.startswith("error: ") and "is no folder" in done.stderr
    assert whole_box((4, 3)) == part_of((4, 3), 0, 1)
