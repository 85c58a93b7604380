"""Folders of PaddleNLP and PaddleMIX: the published names, linear maps as (in, out), `.pdparams` or
safetensors.

Such a folder holds `model_state.pdparams`; or several and `model_state.pdparams.index.json`; or safetensors
whose header says `"format": "np"`, where the published ones say `"pt"`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mix_core.convert.pickled_arrays import read_pickled_arrays
from mix_core.convert.published import Shapes, check_complete
from mix_core.errors import WeightsError
from mix_core.models.common.tensor_files import Outgoing, read_folder

SINGLE = "model_state.pdparams"
PICKLE_INDEX = "model_state.pdparams.index.json"
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


def transposed(name: str, dimensions: int) -> bool:
    """Whether Paddle keeps this weight the other way round: matrices, but not embeddings."""
    return dimensions == 2 and not name.endswith("embed_tokens.weight")


def read_paddle(folder: Path, expected: Shapes, *, tied: bool) -> list[Outgoing]:
    """The weights in published form, checked against the configuration. Raises WeightsError."""
    stored = _stored(folder)
    if tied:
        stored.pop("lm_head.weight", None)
    turned = {
        name: shape[::-1] if transposed(name, len(shape)) else shape for name, (_, shape, _) in stored.items()
    }
    check_complete(turned, expected, folder)
    return [
        Outgoing(name, stored[name][0], turned[name], _reader(name, len(turned[name]), stored[name][2]))
        for name in expected
    ]


def _reader(name: str, dimensions: int, read: Callable[[], np.ndarray]) -> Callable[[], np.ndarray]:
    return (lambda: read().T) if transposed(name, dimensions) else read


def _stored(folder: Path) -> dict[str, tuple[str, tuple[int, ...], Callable[[], np.ndarray]]]:
    """(dtype, shape as stored, values) of each weight."""
    files = _pickled_files(folder)
    if not files:
        return {name: (one.dtype, one.shape, one.read) for name, one in read_folder(folder).items()}
    found: dict[str, tuple[str, tuple[int, ...], Callable[[], np.ndarray]]] = {}
    for path in files:
        for name, values in read_pickled_arrays(path).items():
            if values.dtype.str[1:] not in _DTYPES:
                raise WeightsError(
                    f"{path}: {name} has dtype {values.dtype}; weights are floating-point numbers"
                )
            if name in found:
                raise WeightsError(f"{folder} holds {name} twice, in {path.name} and in another file")
            found[name] = (_DTYPES[values.dtype.str[1:]], values.shape, lambda values=values: values)
    return found


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


def write_paddle(tensors: Sequence[Outgoing], folder: Path) -> None:
    """Write `model_state.pdparams`; bfloat16 is bfloat16 again after `paddle.load`. Imports paddle."""
    import paddle

    state = {}
    for tensor in tensors:
        values = tensor.values()
        turned = values.T if transposed(tensor.name, len(tensor.shape)) else values
        state[tensor.name] = np.ascontiguousarray(turned)
    paddle.save(state, str(folder / SINGLE))
