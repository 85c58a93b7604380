"""Training state in files: what is written comes back, from any number of pieces, and damage is named."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from mix_core.errors import CheckpointError
from mix_core.training import state
from mix_core.training.partition import Box
from mix_core.training.state import Piece, StateReader, faults, whole_piece


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint of one weight file and four tensors in several shards."""
    folder = tmp_path / "checkpoint-7"
    (folder / state.FOLDER).mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    tensors = [(f"mean.{i}", whole_piece(np.arange(6, dtype=np.float32).reshape(2, 3) + i)) for i in range(4)]
    entries = state.write_pieces(folder / state.FOLDER, "optimizer", tensors, max_shard_bytes=50)
    state.write_manifest(folder / state.FOLDER, 7, {"samples": 56}, entries)
    return folder


def test_shards_are_safetensors_with_global_offsets(checkpoint):
    files = sorted(path.name for path in (checkpoint / state.FOLDER).glob("*.safetensors"))
    assert files == [f"optimizer-{i:05d}-of-00002.safetensors" for i in (1, 2)]
    assert set(load_file(checkpoint / state.FOLDER / files[0])) == {"mean.0", "mean.1"}
    entry = StateReader(checkpoint).manifest["tensors"]["mean.2"]
    assert entry["shape"] == [2, 3] and entry["pieces"][0]["offset"] == [0, 0]


def test_what_was_written_comes_back(checkpoint):
    reader = StateReader(checkpoint)
    assert reader.names("mean.") == ["mean.0", "mean.1", "mean.2", "mean.3"]
    np.testing.assert_array_equal(reader.read("mean.3"), np.arange(6, dtype=np.float32).reshape(2, 3) + 3)
    assert reader.manifest["step"] == 7 and reader.manifest["state"] == {"samples": 56}
    with pytest.raises(CheckpointError, match=r"holds no variance\.0"):
        reader.read("variance.0")


def test_pieces_of_several_devices_are_put_together(tmp_path):
    """As two ranks would write it: each half of the columns, in a file of its own."""
    folder = tmp_path / "checkpoint-1" / state.FOLDER
    folder.mkdir(parents=True)
    whole = np.arange(12, dtype=np.float32).reshape(3, 4)
    parts = []
    for rank, columns in enumerate((slice(0, 1), slice(1, 4))):
        piece = Piece(np.ascontiguousarray(whole[:, columns]), (0, columns.start), whole.shape)
        parts.append(state.write_pieces(folder, f"rank{rank}", [("w", piece)]))
    entries = state.joined(parts)
    state.write_manifest(folder, 1, {}, entries)
    np.testing.assert_array_equal(StateReader(folder.parent).read("w"), whole)
    assert not StateReader(folder.parent).read("w", Box((1, 1), (0, 2))).size
    with pytest.raises(CheckpointError, match=r"ranks disagree about w: F32 \[3, 4\] and F32 \[4, 3\]"):
        state.joined([entries, {"w": {**entries["w"], "shape": [4, 3]}}])
    entries["w"]["pieces"].pop()
    state.write_manifest(folder, 1, {}, entries)
    with pytest.raises(CheckpointError, match=r"pieces of w do not cover its shape \(3, 4\)"):
        StateReader(folder.parent).read("w")
    np.testing.assert_array_equal(StateReader(folder.parent).read("w", Box((1, 0), (2, 1))), whole[1:, :1])


def test_a_manifest_of_version_1_is_read(checkpoint):
    """Its checksums were SHA-256."""
    path = checkpoint / state.FOLDER / "manifest.json"
    manifest = json.loads(path.read_text()) | {"version": 1}
    for name, entry in manifest["files"].items():
        del entry["crc32"]
        entry["sha256"] = state.checksum(checkpoint / state.FOLDER / name, "sha256")
    path.write_text(json.dumps(manifest))
    assert list(faults(checkpoint)) == [] and StateReader(checkpoint).read("mean.0").shape == (2, 3)
    (checkpoint / "model.safetensors").write_bytes(b"WEIGHTS")
    assert "model.safetensors is damaged" in next(faults(checkpoint))


def test_a_whole_checkpoint_has_no_faults(checkpoint):
    assert list(faults(checkpoint)) == []


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (
            lambda c: (c / "model.safetensors").write_bytes(b"weight"),
            "model.safetensors is truncated: 6 bytes",
        ),
        (lambda c: (c / "model.safetensors").write_bytes(b"WEIGHTS"), "model.safetensors is damaged"),
        (lambda c: (c / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda c: (c / state.FOLDER / "manifest.json").unlink(), "it is no training checkpoint"),
        (lambda c: (c / state.FOLDER / "manifest.json").write_text("{"), "manifest.json cannot be read"),
        (
            lambda c: (c / state.FOLDER / "manifest.json").write_text("{}"),
            "not the manifest of a training state",
        ),
    ],
)
def test_damage_is_named(checkpoint, damage, says):
    damage(checkpoint)
    assert says in next(faults(checkpoint))


def test_a_manifest_cannot_lead_out_of_its_checkpoint(checkpoint):
    path = checkpoint / state.FOLDER / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["../../elsewhere"] = {"bytes": 1, "crc32": ""}
    manifest["tensors"]["mean.0"]["pieces"][0]["file"] = "../model.safetensors"
    path.write_text(json.dumps(manifest))
    assert any("outside of" in fault for fault in faults(checkpoint))
    with pytest.raises(CheckpointError, match="outside of its folder"):
        StateReader(checkpoint).read("mean.0")
