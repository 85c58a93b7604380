"""Training state in files: sharded safetensors whose pieces know their place in the whole, and a manifest.

A folder `training_state/` holds `NAME-00001-of-00002.safetensors` files and `manifest.json`:

    {"format": "mix_core.training_state", "version": 2, "step": 300,
     "state": {...plain values: place in the data, seeds, configuration...},
     "tensors": {"optimizer.mean.visual.merger.mlp.0.weight":
                   {"dtype": "F32", "shape": [80, 64],
                    "pieces": [{"file": "state-00001-of-00001.safetensors", "key": "...",
                                "offset": [0, 0], "shape": [80, 64]}]}},
     "files": {"../model.safetensors": {"bytes": 1234, "crc32": "89abcdef"}}}

`offset` is where a piece starts in the whole tensor, so that pieces written by some number of devices are
read by any other number. `files` covers every file of the checkpoint but the manifest, which is written last:
a folder whose manifest fits its files is whole. Version 1 had SHA-256 in place of CRC-32.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mix_core.errors import CheckpointError, WeightsError
from mix_core.models.common.tensor_files import StoredTensor, read_header
from mix_core.training.partition import Box, whole_box

FOLDER = "training_state"
MANIFEST = "manifest.json"
FORMAT = "mix_core.training_state"
VERSION = 2
READABLE = (1, 2)
MAX_SHARD_BYTES = 4 << 30
_BLOCK_BYTES = 4 << 20

_DTYPES = {
    "float32": "F32",
    "float64": "F64",
    "float16": "F16",
    "uint16": "BF16",
    "int64": "I64",
    "int32": "I32",
}
NUMPY_OF = {stored: np.dtype(name) for name, stored in _DTYPES.items()}
"""What numpy calls the dtypes of the format; bfloat16 is read as its bits."""


@dataclass(frozen=True)
class Piece:
    """A part of a tensor: the values, and where in the whole they stand."""

    values: np.ndarray
    offset: tuple[int, ...]
    whole: tuple[int, ...]
    """Shape of the whole tensor."""


def storable(values: np.ndarray) -> np.ndarray:
    """Bytes as int32: the files hold no 8-bit type."""
    return values.astype(np.int32) if values.dtype == np.uint8 else values


def whole_piece(values: np.ndarray) -> Piece:
    """A tensor that one device holds entirely."""
    return Piece(values, (0,) * values.ndim, values.shape)


def write_pieces(
    folder: Path, stem: str, tensors: Iterable[tuple[str, Piece]], *, max_shard_bytes: int = MAX_SHARD_BYTES
) -> dict[str, Any]:
    """Write pieces into files of at most `max_shard_bytes` and return the manifest's `tensors`.

    A piece larger than that gets a file of its own, one without elements is left out, and without a piece
    there is no file.
    """
    shards: list[list[tuple[str, Piece]]] = [[]]
    held = 0
    for name, piece in tensors:
        if not piece.values.size:
            continue
        if shards[-1] and held + piece.values.nbytes > max_shard_bytes:
            shards.append([])
            held = 0
        shards[-1].append((name, piece))
        held += piece.values.nbytes
    entries: dict[str, Any] = {}
    for number, shard in enumerate(shards if shards[0] else [], start=1):
        file = f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        write_safetensors(folder / file, {name: piece.values for name, piece in shard})
        for name, piece in shard:
            entries[name] = {
                "dtype": _DTYPES[piece.values.dtype.name],
                "shape": list(piece.whole),
                "pieces": [
                    {
                        "file": file,
                        "key": name,
                        "offset": list(piece.offset),
                        "shape": list(piece.values.shape),
                    }
                ],
            }
    return entries


def joined(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The manifest's `tensors` of several ranks as one.

    Raises:
        CheckpointError: two ranks have a tensor of one name and another dtype or shape.
    """
    found: dict[str, Any] = {}
    for entries in parts:
        for name, entry in entries.items():
            kept = found.setdefault(name, {**entry, "pieces": []})
            if (kept["dtype"], kept["shape"]) != (entry["dtype"], entry["shape"]):
                raise CheckpointError(
                    f"ranks disagree about {name}: {kept['dtype']} {kept['shape']} and {entry['dtype']} "
                    f"{entry['shape']}"
                )
            kept["pieces"] += entry["pieces"]
    return found


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write arrays one after another, without a copy of them all in memory."""
    header: dict[str, Any] = {}
    position = 0
    for name, values in tensors.items():
        end = position + values.nbytes
        header[name] = {
            "dtype": _DTYPES[values.dtype.name],
            "shape": list(values.shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for values in tensors.values():
            file.write(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())


def write_manifest(folder: Path, step: int, state: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
    """Write the manifest of a checkpoint whose files are all there; `folder` is its training_state folder."""
    files = {}
    for path in sorted(folder.parent.rglob("*")):
        if path.is_file() and path != folder / MANIFEST:
            name = os.path.relpath(path, folder)
            files[name] = {"bytes": path.stat().st_size, "crc32": checksum(path)}
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "step": step,
        "state": dict(state),
        "tensors": dict(tensors),
        "files": files,
    }
    write_json(folder / MANIFEST, manifest)


def write_json(path: Path, value: Any) -> None:
    """Write a file that is there whole or not at all."""
    beside = path.with_name(f".{path.name}.new")
    with beside.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def checksum(path: Path, kind: str = "crc32") -> str:
    """A file's CRC-32, or the SHA-256 of older manifests, as hexadecimal digits."""
    digest, value = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            if kind == "crc32":
                value = zlib.crc32(block, value)
            else:
                digest.update(block)
    return f"{value:08x}" if kind == "crc32" else digest.hexdigest()


def read_manifest(checkpoint: Path) -> dict[str, Any]:
    """The manifest of a checkpoint folder.

    Raises:
        CheckpointError: there is none, it is damaged, or another version wrote it.
    """
    path = checkpoint / FOLDER / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{checkpoint} has no {FOLDER}/{MANIFEST}: it is no training checkpoint; to start from its "
            "weights give model_name_or_path"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not the manifest of a training state")
    if manifest.get("version") not in READABLE:
        raise CheckpointError(
            f"{path} has version {manifest.get('version')}, this mix-core reads up to {VERSION}"
        )
    return manifest


def faults(checkpoint: Path, *, checksums: bool = True) -> Iterator[str]:
    """What keeps a checkpoint from being whole, one sentence each; nothing when it is."""
    try:
        manifest = read_manifest(checkpoint)
        files = dict(manifest["files"])
    except CheckpointError as error:
        yield str(error)
        return
    except (KeyError, TypeError, ValueError):
        yield f"{checkpoint / FOLDER / MANIFEST} lists no files"
        return
    for name, entry in files.items():
        path = Path(os.path.normpath(checkpoint / FOLDER / name))
        if not path.is_relative_to(os.path.normpath(checkpoint)):
            yield f"the manifest names {name}, outside of {checkpoint}"
        elif not path.is_file():
            yield f"{path} is missing"
        elif path.stat().st_size != entry["bytes"]:
            yield f"{path} is truncated: {path.stat().st_size} bytes, expected {entry['bytes']}"
        elif checksums and not _fits(path, entry):
            yield f"{path} is damaged: its checksum is not the manifest's"


def _fits(path: Path, entry: Mapping[str, Any]) -> bool:
    kind = "crc32" if "crc32" in entry else "sha256"
    return checksum(path, kind) == entry.get(kind)


def description(manifest: Mapping[str, Any]) -> Iterator[str]:
    """What a checkpoint holds, in lines."""
    known = manifest["state"]
    ranks = known.get("ranks", 1)
    family, writers = known.get("family", "a model"), f"{ranks} ranks" if ranks > 1 else "one rank"
    yield f"step {manifest['step']}, {family}, written by {writers}, format {manifest['version']}"
    kinds: dict[str, list[int]] = {}
    for name, entry in manifest["tensors"].items():
        kind = ".".join(name.split(".")[:2]) if name.startswith("optimizer.") else name.split(".")[0]
        numbers = kinds.setdefault(kind, [0, 0, 0])
        size = int(np.prod(entry["shape"], dtype=np.int64)) * NUMPY_OF[entry["dtype"]].itemsize
        numbers[:] = numbers[0] + 1, numbers[1] + len(entry["pieces"]), numbers[2] + size
    for kind, (count, pieces, size) in kinds.items():
        yield f"{kind:<18} {count:>5} tensors in {pieces:>5} pieces  {size / 1e6:>10,.1f} MB"
    for name, entry in sorted(manifest["files"].items()):
        digest = entry.get("crc32") or entry.get("sha256", "")[:8]
        yield f"{entry['bytes']:>14,} bytes  {digest}  {os.path.normpath(os.path.join(FOLDER, name))}"


class StateReader:
    """The tensors of a checkpoint's training state, put together from their pieces when asked for."""

    def __init__(self, checkpoint: Path, tensors: Mapping[str, Any] | None = None) -> None:
        """`tensors`: the manifest's, where there is no manifest yet."""
        self.folder = checkpoint / FOLDER
        self.manifest = read_manifest(checkpoint) if tensors is None else {"tensors": tensors}
        self._headers: dict[str, dict[str, StoredTensor]] = {}

    def names(self, prefix: str = "") -> list[str]:
        return [name for name in self.manifest["tensors"] if name.startswith(prefix)]

    def read(self, name: str, box: Box | None = None) -> np.ndarray:
        """The whole tensor, or a box of it, from the bytes of that box alone.

        Raises:
            CheckpointError: it is not there, or its pieces do not cover it.
        """
        entry = self.entry(name)
        box = whole_box(entry["shape"]) if box is None else box
        values, found = np.empty(box.shape, NUMPY_OF[entry["dtype"]]), 0
        for piece in entry["pieces"]:
            held = Box(tuple(piece["offset"]), tuple(piece["shape"]))
            common = box.common(held)
            if common is not None:
                values[common.inside(box)] = self._piece(piece)[common.inside(held)]
                found += common.size
        if found != box.size:
            raise CheckpointError(
                f"{self.folder}: the pieces of {name} do not cover its shape {tuple(entry['shape'])}"
            )
        return values

    def entry(self, name: str) -> dict[str, Any]:
        """What the manifest says of a tensor. Raises CheckpointError."""
        entry = self.manifest["tensors"].get(name)
        if entry is None:
            raise CheckpointError(
                f"{self.folder} holds no {name}; it was written by another model or optimizer"
            )
        return dict(entry)

    def _piece(self, piece: Mapping[str, Any]) -> np.ndarray:
        file = piece["file"]
        if file not in self._headers:
            if Path(file).name != file:
                raise CheckpointError(
                    f"{self.folder / MANIFEST} names the file {file}, outside of its folder"
                )
            try:
                self._headers[file] = read_header(self.folder / file)
            except (WeightsError, OSError) as error:
                raise CheckpointError(f"{self.folder / file} cannot be read: {error}") from None
        stored = self._headers[file].get(piece["key"])
        if stored is None or list(stored.shape) != list(piece["shape"]):
            raise CheckpointError(f"{self.folder / file} lacks {piece['key']} of shape {piece['shape']}")
        return stored.read()
