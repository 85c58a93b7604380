"""MindSpeed-MM's checkpoint folders: `release/mp_rank_TT[_PPP]/model_optim_rng.pt` for each rank, and
`latest_checkpointed_iteration.txt`. TT is the tensor-parallel rank, PPP the pipeline stage (where there are
several).

A rank's file holds {"model": weights, "checkpoint_version": 3.0}; layers are counted anew on each stage.
With a virtual pipeline there are "model0", "model1"... instead of "model". torch reads and writes it (extra
`convert`), with weights_only: what the file wants to call is not called.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mix_core.convert.mindspeed_entries import Entry, Tower, divide, join, part_of, unite
from mix_core.convert.mindspeed_names import absent, towers
from mix_core.convert.published import Model, same_bits
from mix_core.convert.shapes import Shapes
from mix_core.convert.stages import Stages, parse_stages
from mix_core.errors import BadInputError, WeightsError
from mix_core.models.common.tensor_files import Outgoing

LATEST = "latest_checkpointed_iteration.txt"
FILE = "model_optim_rng.pt"
VERSION = 3.0
_RANK = re.compile(r"mp_rank_(\d{2})(?:_(\d{3}))?")
_OF_TORCH = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}


class Kept(NamedTuple):
    """A tensor and the file that it is in."""

    tensor: Any
    file: Path


Ranked = dict[str, list[Kept]]
"""Weights by their name in the whole model, one tensor for each tensor-parallel rank."""


def is_mindspeed_folder(folder: Path) -> bool:
    return (folder / LATEST).is_file()


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        raise BadInputError(
            "MindSpeed-MM's .pt files are read and written with torch, which is not installed; "
            "pip install 'mix-core[convert]'"
        ) from None
    return torch


def places(tower: Tower, stages: Stages) -> Iterator[tuple[int, str, int | None, Entry]]:
    """(chunk, name within the chunk, layer or None, entry) of every weight of a tower."""
    counts = stages.layers(tower.kind)
    used = [chunk for chunk, count in enumerate(counts) if count] or [0]
    yield from ((used[0], entry.name, None, entry) for entry in tower.first)
    start = 0
    for chunk, count in enumerate(counts):
        for local in range(count):
            for entry in tower.layer:
                yield chunk, f"{tower.layer_prefix}{local}.{entry.name}", start + local, entry
        start += count
    yield from ((used[-1], entry.name, None, entry) for entry in tower.last)


def _one_stage(model: Model) -> Stages:
    vit, llm = (tower.layers for tower in towers(model, staged=False))
    return Stages((vit,), (llm,))


def planned_stages(model: Model, vit: str | None, llm: str | None) -> Stages:
    """The stages that two lists ask for. Raises BadInputError where the model cannot be laid on them."""
    depth, layers = (tower.layers for tower in towers(model, staged=False))
    stages = parse_stages(vit, llm, vit_layers=depth, llm_layers=layers)
    towers(model, staged=stages.count > 1)
    return stages


def check_tensor_parallel(model: Model, ranks: int) -> None:
    """Refuse a number of ranks that does not divide heads and matrices. Raises BadInputError."""
    if ranks < 1:
        raise BadInputError(f"tp_size is {ranks}, expected 1 or more")
    for tower in towers(model, staged=False):
        for _, name, layer, entry in places(tower, _one_stage(model)):
            size = _joined_shape(entry, layer, model.shapes)[entry.share.axis or 0]
            if not entry.share.fits(size, ranks):
                count = entry.share.groups or size // entry.share.blocks
                what = "groups of heads" if entry.share.groups else "rows or columns"
                raise BadInputError(
                    f"tp_size is {ranks}, which does not divide {name} with its {count} {what}"
                )


def _joined_shape(entry: Entry, layer: int | None, shapes: Shapes) -> tuple[int, ...]:
    """The shape of theirs, of all ranks together."""
    parts = [shapes[source] for source in entry.sources(layer)]
    return (1,) * entry.axes + (sum(part[0] for part in parts), *parts[0][1:])


def write_mindspeed(
    tensors: Sequence[Outgoing], model: Model, folder: Path, stages: Stages, ranks: int
) -> None:
    """Write a release folder, one rank's file after the other; a rank's weights are in memory at once."""
    torch = _torch()
    published = {tensor.name: tensor for tensor in tensors}
    placed: list[list[tuple[str, int | None, Entry]]] = [[] for _ in stages.llm]
    for tower in towers(model, staged=stages.count > 1):
        for chunk, name, layer, entry in places(tower, stages):
            placed[chunk].append((name, layer, entry))
    for rank in range(ranks):
        for stage in range(stages.count):
            models = []
            for chunk in range(stage, len(placed), stages.count):
                state = {}
                for name, layer, entry in placed[chunk]:
                    parts = [published[source] for source in entry.sources(layer)]
                    _check_one_dtype(name, [part.dtype for part in parts])
                    whole = join(entry, [part.values() for part in parts])
                    state[name] = _tensor(torch, divide(entry.share, whole, ranks)[rank], parts[0].dtype)
                models.append(state)
            names = ["model"] if len(models) == 1 else [f"model{i}" for i in range(len(models))]
            suffix = f"_{stage:03d}" if stages.count > 1 else ""
            target = folder / "release" / f"mp_rank_{rank:02d}{suffix}"
            target.mkdir(parents=True)
            with (target / FILE).open("wb") as file:  # a file of Python's own: a full disk is an OSError then
                torch.save(dict(zip(names, models)) | {"checkpoint_version": VERSION}, file)
    (folder / LATEST).write_text("release", encoding="utf-8")


def _check_one_dtype(name: str, dtypes: Sequence[str]) -> None:
    """Refuse parts of one matrix with different numbers. Raises WeightsError."""
    if len(set(dtypes)) > 1:
        raise WeightsError(f"{name} joins weights of {', '.join(dtypes)}; one matrix needs one dtype")


def _tensor(torch: Any, values: np.ndarray, dtype: str) -> Any:
    own = np.array(values, order="C")  # a copy: torch.save would write what a view's base holds, too
    return (
        torch.from_numpy(own.view(np.int16)).view(torch.bfloat16)
        if dtype == "BF16"
        else torch.from_numpy(own)
    )


def _numpy(tensor: Any) -> np.ndarray:
    import torch

    held = tensor.detach().contiguous()
    if held.dtype == torch.bfloat16:
        return held.view(torch.int16).numpy().view(np.uint16)
    return held.numpy()


def read_mindspeed(folder: Path, model: Model) -> tuple[list[Outgoing], Stages, int]:
    """The weights in published form, and the stages and tensor-parallel ranks that they were laid on.

    Published weights for which the layout has no place are not among them.

    Stages are seen from the files. Raises WeightsError where ranks or weights are missing or unexpected.
    """
    files = _rank_files(folder)
    ranks, count = len(files), len(files[0])
    merged: Ranked = {}
    for rank, stage_files in enumerate(files):
        chunks = _chunks([_load(path) for path in stage_files], stage_files)
        stages, whole = _renumbered(chunks, model, count)
        if rank and whole.keys() != merged.keys():
            name = min(whole.keys() ^ merged.keys())
            raise WeightsError(f"{folder}: rank {rank} and rank 0 do not hold the same weights: {name}")
        for name, kept in whole.items():
            merged.setdefault(name, []).append(kept)
    return _published(merged, model, stages, folder), stages, ranks


def _rank_files(folder: Path) -> list[list[Path]]:
    """The file of each tensor-parallel rank and stage."""
    try:
        latest = (folder / LATEST).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise WeightsError(f"{folder} has no readable {LATEST}; expected a MindSpeed-MM folder") from None
    if latest != "release" and not latest.isdecimal():
        raise WeightsError(f"{folder / LATEST} says {latest[:40]!r}, expected release or a number of steps")
    inner = folder / (latest if latest == "release" else f"iter_{int(latest):07d}")
    found = {
        (int(m[1]), int(m[2] or 0)): p for p in inner.glob("mp_rank_*") if (m := _RANK.fullmatch(p.name))
    }
    if not found or len(found) != len(list(inner.glob("mp_rank_*"))):
        raise WeightsError(
            f"{inner} has no folders mp_rank_TT or mp_rank_TT_PPP alone; expert ranks are not read"
        )
    ranks, count = (1 + max(key[axis] for key in found) for axis in (0, 1))
    missing = [
        (r, s) for r in range(ranks) for s in range(count) if not (found.get((r, s), inner) / FILE).is_file()
    ]
    if missing:
        raise WeightsError(
            f"{inner} lacks {FILE} of tensor-parallel rank {missing[0][0]}, stage {missing[0][1]}"
        )
    return [[found[rank, stage] / FILE for stage in range(count)] for rank in range(ranks)]


def _load(path: Path) -> dict[str, Any]:
    torch = _torch()
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # a run's arguments: names and values
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch has its own errors, and those of the archive and of the pickle in it
        raise WeightsError(f"{path} is refused or damaged ({_reason(error)})") from error
    if not isinstance(found, dict):
        raise WeightsError(f"{path} holds {type(found).__name__}, expected a checkpoint with model")
    return found


def _reason(error: Exception) -> str:
    """The line of torch's advice that says what was refused; the advice is to trust the file."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if "GLOBAL" in line or "Unsupported" in line] or lines or [""]
    return f"{type(error).__name__}: {told[0].removeprefix('WeightsUnpickler error: ')[:160]}"


def _chunks(found: list[dict[str, Any]], files: list[Path]) -> list[dict[str, Kept]]:
    """The weights of each chunk, in the order of layers."""
    virtual = sum(1 for key in found[0] if re.fullmatch(r"model\d+", str(key)))
    names = [f"model{i}" for i in range(virtual)] or ["model"]
    chunks = []
    for name in names:
        for one, file in zip(found, files):
            if not isinstance(one.get(name), dict):
                raise WeightsError(f"{file} has no {name}; expected a MindSpeed-MM checkpoint")
            weights = {
                str(key): Kept(value, file)
                for key, value in one[name].items()
                if not str(key).endswith("_extra_state")
            }
            chunks.append(weights)
    return chunks


def _renumbered(chunks: list[dict[str, Kept]], model: Model, count: int) -> tuple[Stages, dict[str, Kept]]:
    """The stages, and the weights under the layer numbers of the whole model."""
    layers: dict[str, list[int]] = {"vit": [], "llm": []}
    prefixes = {tower.kind: tower.layer_prefix for tower in towers(model, staged=False)}
    whole: dict[str, Kept] = {}
    for chunk in chunks:
        starts = {kind: sum(done) for kind, done in layers.items()}
        highest = dict.fromkeys(layers, -1)
        for name, kept in chunk.items():
            for kind, prefix in prefixes.items():
                number, _, rest = name.removeprefix(prefix).partition(".")
                if name.startswith(prefix) and number.isdecimal():
                    highest[kind] = max(highest[kind], int(number))
                    name = f"{prefix}{starts[kind] + int(number)}.{rest}"
            whole[name] = kept
        for kind in layers:
            layers[kind].append(highest[kind] + 1)
    return Stages(tuple(layers["vit"]), tuple(layers["llm"]), len(chunks) // count), whole


def _published(merged: Ranked, model: Model, stages: Stages, folder: Path) -> list[Outgoing]:
    """Published weights of theirs, which must be those of the configuration, no more and no fewer."""
    found: dict[str, Outgoing] = {}
    unused = set(merged)
    for tower in towers(model, staged=stages.count > 1):
        for _, name, layer, entry in places(tower, _one_stage(model)):
            if name not in merged:
                raise WeightsError(
                    f"{folder} lacks the weight {name} (of the whole model); does config.json fit?"
                )
            unused.discard(name)
            for outgoing in _taken_apart(entry, layer, merged[name], model.shapes):
                _keep(found, outgoing, folder)
    if unused:
        name = min(unused)
        raise WeightsError(f"{merged[name][0].file} holds {name}, which config.json does not ask for")
    unplaced = absent(model)
    return [found[name] for name in model.shapes if name not in unplaced]


def _keep(found: dict[str, Outgoing], outgoing: Outgoing, folder: Path) -> None:
    """A tied head must be the embedding: one of two that differ would be lost."""
    before = found.setdefault(outgoing.name, outgoing)
    if before is not outgoing and not same_bits(before.values(), outgoing.values()):
        raise WeightsError(
            f"{folder}: the head on the last stage differs from {outgoing.name}, and config.json ties them"
        )


def _taken_apart(entry: Entry, layer: int | None, held: list[Kept], expected: Shapes) -> Iterator[Outgoing]:
    """The published weights in one of theirs."""
    sources, share = entry.sources(layer), entry.share
    shapes = [expected[source] for source in sources]
    whole_shape = _joined_shape(entry, layer, expected)
    for rank, (tensor, file) in enumerate(held):
        own_shape = list(whole_shape)
        if share.axis is not None:
            block = whole_shape[share.axis] // share.blocks
            own_shape[share.axis] = share.blocks * share.sizes(block, len(held))[rank]
        dtype = str(getattr(tensor, "dtype", type(tensor).__name__)).removeprefix("torch.")
        if dtype not in _OF_TORCH or list(tensor.shape) != own_shape:
            found = list(getattr(tensor, "shape", ()))
            raise WeightsError(
                f"{file}: {entry.name} for {sources[0]} is {dtype} {found}, "
                f"expected numbers of shape {own_shape}"
            )
    _check_one_dtype(sources[0], [str(kept.tensor.dtype) for kept in held])
    joined_rows = whole_shape[0]
    rows = [joined_rows // 3] * 3 if entry.form == "regrouped" else [shape[0] for shape in shapes]
    dtype = _OF_TORCH[str(held[0].tensor.dtype).removeprefix("torch.")]

    def values(place: int) -> np.ndarray:
        return part_of(entry, unite(share, [_numpy(kept.tensor) for kept in held]), place, rows)

    for place, (source, shape) in enumerate(zip(sources, shapes)):
        yield Outgoing(source, dtype, shape, lambda place=place: values(place))
