"""safetensors files: a reader that maps them into memory and checks what their headers promise, a writer.

A folder holds `model.safetensors`, or shards and `model.safetensors.index.json`, which says what is where.
The format: 8 bytes of header length, a JSON header (dtype, shape and byte range of each name), the bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mix_core.errors import WeightsError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_NUMPY_OF = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4"}
_MAX_HEADER_BYTES = 100_000_000
_BY_NUMPY = "np"
"""The metadata's `format` of files that were written through numpy: bfloat16 is called U16 in them."""


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies; its bytes are read only when asked for."""

    file: Path
    dtype: str
    """As the format names it: F32, BF16..."""
    shape: tuple[int, ...]
    start: int
    """First byte, counted from the start of the file."""

    @property
    def size_bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(_NUMPY_OF[self.dtype]).itemsize

    def read(self) -> np.ndarray:
        """Its values, not to be written to: the file itself in memory; bfloat16 as uint16, as in numpy."""
        return np.memmap(self.file, _NUMPY_OF[self.dtype], "r", self.start, self.shape or (1,)).reshape(
            self.shape
        )

    def read_float32(self) -> np.ndarray:
        """Its values in float32; those of a float32 file are the file itself, as in `read`."""
        values = self.read()
        if self.dtype == "BF16":
            wide = values.astype(np.uint32)
            wide <<= 16
            return wide.view(np.float32)
        return values.astype(np.float32, copy=False)


@dataclass(frozen=True)
class FileNames:
    """What a folder calls its weights."""

    stem: str = "model"
    variant: str | None = None
    """Such as fp16: a second set of the same weights, told apart by this in the names."""

    @property
    def single(self) -> str:
        return f"{self.stem}{self._variant}.safetensors"

    @property
    def index(self) -> str:
        return f"{self.stem}.safetensors.index{self._variant}.json"

    def shard(self, number: int, count: int) -> str:
        return f"{self.stem}{self._variant}-{number:05d}-of-{count:05d}.safetensors"

    @property
    def _variant(self) -> str:
        return f".{self.variant}" if self.variant else ""


MODEL = FileNames()


def read_folder(folder: Path, names: FileNames = MODEL) -> dict[str, StoredTensor]:
    """All tensors of a model folder by name. Raises WeightsError."""
    folder = Path(folder)
    index = folder / names.index
    if not index.is_file():
        if not (folder / names.single).is_file():
            raise WeightsError(
                f"{folder} has neither {names.single} nor {names.index}; expected a folder with weights"
            )
        return read_header(folder / names.single)
    weight_map = _read_index(index)
    headers = {name: read_header(_inside(index, name)) for name in sorted(set(weight_map.values()))}
    tensors: dict[str, StoredTensor] = {}
    for name, shard in weight_map.items():
        if name not in headers[shard]:
            raise WeightsError(f"{index} says that {name} is in {shard}, but it is not")
        tensors[name] = headers[shard][name]
    return tensors


def _read_index(path: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{path} is not a weight index: {error!r}; expected JSON with weight_map"
        ) from None
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise WeightsError(f"{path} is not a weight index: weight_map must give a file name for each weight")
    return weight_map


def _inside(index: Path, name: str) -> Path:
    """The shard's path; an index may name files of its own folder only."""
    if name in ("", ".", "..") or "/" in name or "\\" in name:
        raise WeightsError(f"{index} names the file {name!r}; a shard must lie in the index's own folder")
    path = index.parent / name
    if not path.is_file():
        raise WeightsError(f"{path} is missing; {index.name} names it")
    return path


def read_header(path: Path) -> dict[str, StoredTensor]:
    """All tensors of one file, after checking that the file is as long as its header promises."""
    return _read_header(path)[0]


def read_metadata(path: Path) -> dict[str, str]:
    """The texts in a file's header. Raises WeightsError."""
    return _read_header(path)[1]


def _read_header(path: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
            raise WeightsError(
                f"{path} is truncated or no safetensors file: {size} bytes, header of {length}"
            )
        try:
            header = json.loads(file.read(length))
            metadata = dict(header.get("__metadata__", {}))
            names = {"U16": "BF16"} if metadata.get("format") == _BY_NUMPY else {}
            tensors = {
                name: _stored(path, name, entry, 8 + length, size, names)
                for name, entry in header.items()
                if name != "__metadata__"
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise WeightsError(f"{path} has a damaged safetensors header: {error!r}") from None
    return tensors, metadata


def _stored(
    path: Path, name: str, entry: dict[str, Any], base: int, size: int, names: Mapping[str, str]
) -> StoredTensor:
    dtype, shape = names.get(entry["dtype"], entry["dtype"]), tuple(int(n) for n in entry["shape"])
    start, end = (base + int(offset) for offset in entry["data_offsets"])
    if dtype not in _NUMPY_OF:
        raise WeightsError(f"{path}: {name} has dtype {dtype}; expected one of {', '.join(_NUMPY_OF)}")
    expected = int(np.prod(shape, dtype=np.int64)) * np.dtype(_NUMPY_OF[dtype]).itemsize
    if end > size:
        raise WeightsError(
            f"{path} is truncated: {name} ends at byte {end}, the file has {size}; fetch it again"
        )
    if min(shape, default=0) < 0 or start < base or end - start != expected:
        raise WeightsError(
            f"{path}: {name} of shape {shape} needs {expected} bytes, its range has {end - start}"
        )
    return StoredTensor(path, dtype, shape, start)


@dataclass(frozen=True)
class Outgoing:
    """A tensor to be written; its values are made when its turn has come, so that few exist at once."""

    name: str
    dtype: str
    """As the format names it; values are then of the numpy type that the reader gives."""
    shape: tuple[int, ...]
    values: Callable[[], np.ndarray]

    @property
    def size_bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(_NUMPY_OF[self.dtype]).itemsize


def write_folder(
    folder: Path,
    tensors: Sequence[Outgoing],
    max_shard_bytes: int,
    metadata: Mapping[str, str] | None = None,
    names: FileNames = MODEL,
) -> None:
    """Write tensors as one file, or as shards and an index, which is written last."""
    folder = Path(folder)
    shards = list(split_into_shards(tensors, max_shard_bytes))
    (folder / names.index).unlink(missing_ok=True)
    if len(shards) == 1:
        write_file(folder / names.single, shards[0], metadata)
        return
    (folder / names.single).unlink(missing_ok=True)
    weight_map: dict[str, str] = {}
    for i, shard in enumerate(shards, start=1):
        name = names.shard(i, len(shards))
        write_file(folder / name, shard, metadata)
        weight_map |= {tensor.name: name for tensor in shard}
    index = {
        "metadata": {"total_size": sum(tensor.size_bytes for tensor in tensors)},
        "weight_map": weight_map,
    }
    (folder / names.index).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def split_into_shards(tensors: Sequence[Outgoing], limit_bytes: int) -> Iterator[list[Outgoing]]:
    """Tensors file by file: in their order, each file as full as it may be, none empty."""
    shard: list[Outgoing] = []
    held = 0
    for tensor in tensors:
        if shard and held + tensor.size_bytes > limit_bytes:
            yield shard
            shard, held = [], 0
        shard.append(tensor)
        held += tensor.size_bytes
    yield shard


def write_file(path: Path, tensors: Sequence[Outgoing], metadata: Mapping[str, str] | None = None) -> None:
    """Write one file; `metadata` are texts in its header."""
    # transformers refuses a file that does not name the framework whose conventions it follows
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    names = {"BF16": "U16"} if header["__metadata__"]["format"] == _BY_NUMPY else {}
    end = 0
    for tensor in tensors:
        start, end = end, end + tensor.size_bytes
        header[tensor.name] = {
            "dtype": names.get(tensor.dtype, tensor.dtype),
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            values = np.ascontiguousarray(tensor.values(), _NUMPY_OF[tensor.dtype])
            if values.shape != tensor.shape:
                raise ValueError(f"{tensor.name} has shape {values.shape}, announced was {tensor.shape}")
            file.write(values.reshape(-1).view(np.uint8))
