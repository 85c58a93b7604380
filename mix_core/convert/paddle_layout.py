"""Folders of PaddleNLP and PaddleMIX: their names, linear maps as (in, out), `.pdparams` or safetensors.

Such a folder holds `model_state.pdparams`; or shards and `model_state.pdparams.index.json`; or safetensors
whose header says `"format": "np"`, where the published ones say `"pt"`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from mix_core.convert.paddle_names import PaddleNames, paddle_names
from mix_core.convert.pickled_arrays import read_pickled_arrays
from mix_core.convert.pickled_writer import write_pickled_arrays
from mix_core.convert.published import Held, Model, accept
from mix_core.errors import WeightsError
from mix_core.models.common.tensor_files import Outgoing, read_folder, split_into_shards, write_folder

SINGLE = "model_state.pdparams"
PICKLE_INDEX = "model_state.pdparams.index.json"
MAX_SHARD_BYTES = 10 * 10**9
"""PaddleNLP's own limit of a file."""
_DTYPES = {"f8": "F64", "f4": "F32", "f2": "F16", "u2": "BF16", "i8": "I64", "i4": "I32"}


def is_paddle_folder(folder: Path) -> bool:
    """Whether the folder holds weights in Paddle's layout."""
    if any(folder.glob("*.pdparams")):
        return True
    first = next(iter(sorted(folder.glob("*.safetensors"))), None)
    return first is not None and _metadata_format(first) not in (None, "pt")


def _metadata_format(path: Path) -> str | None:
    """What the header of a safetensors file says of its layout; None where it cannot be read."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            return json.loads(file.read(min(length, 100_000_000))).get("__metadata__", {}).get("format")
        except (ValueError, AttributeError):
            return None


def read_paddle(folder: Path, model: Model) -> list[Outgoing]:
    """The weights in published form, checked against the configuration. Raises WeightsError."""
    names = paddle_names(model.family, model.config)
    theirs = {names.name(name): name for name in (*model.shapes, model.head)}
    found: dict[str, Held] = {}
    for held in _stored(folder):
        name = theirs.get(held.name, f"? {held.name}")  # a name that is not theirs stands for no weight
        found[name] = _published(name, held, names)
    return accept(found, model, folder, lambda name: lacks(model, names, name))


def lacks(model: Model, names: PaddleNames, name: str) -> bool:
    """Whether a folder of theirs may come without this weight."""
    return model.may_lack(name) or (names.may_lack is not None and name.startswith(names.may_lack))


def _published(name: str, held: Held, names: PaddleNames) -> Held:
    if not names.turned(name, len(held.shape)):
        return held
    return Held(held.name, held.file, held.dtype, held.shape[::-1], lambda: held.values().T)


def _stored(folder: Path) -> list[Held]:
    """Every weight as it is stored."""
    files = _pickled_files(folder)
    if not files:
        return [
            Held(name, one.file, one.dtype, one.shape, one.read) for name, one in read_folder(folder).items()
        ]
    found: dict[str, Held] = {}
    for path in files:
        for name, one in read_pickled_arrays(path).items():
            if one.dtype.str[1:] not in _DTYPES:
                raise WeightsError(
                    f"{path}: {name} has dtype {one.dtype}; weights are floating-point numbers"
                )
            if name in found:
                raise WeightsError(
                    f"{folder} holds {name} twice, in {path.name} and in {found[name].file.name}"
                )
            found[name] = Held(name, path, _DTYPES[one.dtype.str[1:]], one.shape, one.read)
    return list(found.values())


def _pickled_files(folder: Path) -> list[Path]:
    if (folder / PICKLE_INDEX).is_file():
        try:
            names = sorted(
                set(json.loads((folder / PICKLE_INDEX).read_text(encoding="utf-8"))["weight_map"].values())
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise WeightsError(f"{folder / PICKLE_INDEX} is not a weight index: {error!r}") from None
        return [_inside(folder, name) for name in names]
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    parts = sorted(folder.glob("*.pdparams"))
    if any(".tp" in path.name for path in parts):
        raise WeightsError(
            f"{folder} holds one file for each tensor-parallel rank ({parts[0].name}...); merge them "
            "where they were made, into model_state.pdparams"
        )
    if len(parts) > 1:
        raise WeightsError(
            f"{folder} holds {len(parts)} .pdparams files and no {PICKLE_INDEX}; which is the model?"
        )
    return parts


def _inside(folder: Path, name: object) -> Path:
    """A file that an index names; it may name files of its own folder only."""
    if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or "\\" in name:
        raise WeightsError(
            f"{folder / PICKLE_INDEX} names the file {name!r}; it must lie in the index's own folder"
        )
    if not (folder / name).is_file():
        raise WeightsError(f"{folder / name} is missing; {PICKLE_INDEX} names it")
    return folder / name


def write_paddle(
    tensors: Sequence[Outgoing],
    model: Model,
    folder: Path,
    max_shard_bytes: int | None = None,
    *,
    safetensors: bool = False,
) -> None:
    """Write `model_state.pdparams`, or shards and their index, or safetensors; a weight in memory at once."""
    names, limit = paddle_names(model.family, model.config), max_shard_bytes or MAX_SHARD_BYTES
    theirs = [_theirs(tensor, names) for tensor in tensors]
    if safetensors:
        write_folder(folder, theirs, limit, metadata={"format": "np"})
        return
    shards = list(split_into_shards(theirs, limit))
    if len(shards) == 1:
        write_pickled_arrays(folder / SINGLE, theirs)
        return
    weight_map: dict[str, str] = {}
    for i, shard in enumerate(shards, start=1):
        name = f"model_state-{i:05d}-of-{len(shards):05d}.pdparams"
        write_pickled_arrays(folder / name, shard)
        weight_map |= dict.fromkeys((tensor.name for tensor in shard), name)
    total = sum(tensor.size_bytes for tensor in theirs)
    index = json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2)
    (folder / PICKLE_INDEX).write_text(index + "\n", encoding="utf-8")


def _theirs(tensor: Outgoing, names: PaddleNames) -> Outgoing:
    if not names.turned(tensor.name, len(tensor.shape)):
        return Outgoing(names.name(tensor.name), tensor.dtype, tensor.shape, tensor.values)
    return Outgoing(names.name(tensor.name), tensor.dtype, tensor.shape[::-1], lambda: tensor.values().T)
