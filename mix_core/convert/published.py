"""The published layout: what a model's folder must hold by its config.json, and reading and writing it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mix_core.convert.shapes import FAMILIES, Shapes, by_authors, embedding_of
from mix_core.errors import BadInputError, WeightsError
from mix_core.models.common.tensor_files import INDEX, Outgoing, read_folder, write_folder
from mix_core.models.registry import get_family, read_config

BESIDE = ("*.json", "*.txt", "*.jinja", "*.model", "*.tiktoken")
"""Files beside the weights that belong to a model: configurations, vocabularies, templates."""
_WEIGHT_INDEXES = (INDEX, "model_state.pdparams.index.json", "pytorch_model.bin.index.json")
_DTYPE_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_COMPUTED = re.compile(r"(.+\.)?(rotary_emb\.inv_freq|position_ids|attn\.(bias|masked_bias|logn_tensor))")
"""Buffers that some versions of the publishers' code store."""


@dataclass(frozen=True)
class Model:
    """What a config.json says of the weights. Names are the published ones; of LLaVA, llava-hf's."""

    family: str
    config: Any
    shapes: Shapes
    """Every published weight, in the order in which they are written."""
    head: str
    embedding: str
    tied: bool
    """Whether the head is the embedding; it is not among the shapes then."""
    by_authors: bool
    """A LLaVA folder whose config.json has the authors' form: with their names, and mostly without tower."""
    stored_name: Callable[[str], str]
    """A name in a published file, in any form -> its name here."""

    def may_lack(self, name: str) -> bool:
        """Whether a folder is whole without this weight."""
        return self.by_authors and name.startswith("vision_tower.")


@dataclass(frozen=True)
class Held:
    """A weight in a file, in its published form."""

    name: str
    """As the file names it."""
    file: Path
    dtype: str
    shape: tuple[int, ...]
    values: Callable[[], np.ndarray]


def read_model(folder: Path) -> Model:
    """What the folder's config.json says. Raises BadInputError."""
    source = read_config(folder)
    family = get_family(source["model_type"])
    if family.name not in FAMILIES:
        raise BadInputError(
            f"{folder} holds a {family.name} model; convertible families: {', '.join(FAMILIES)}"
        )
    config, published = family.config_from_dict(source), FAMILIES[family.name]
    shapes = published.shapes(config, source)
    embedding, head, tied = embedding_of(shapes), published.head(config), published.tied(config)
    if not tied:
        shapes[head] = shapes[embedding]
    return Model(
        family.name, config, shapes, head, embedding, tied, by_authors(source), published.stored_name
    )


def accept(found: dict[str, Held], model: Model, where: Path, lacks: Callable[[str], bool]) -> list[Outgoing]:
    """Check weights against the configuration and put them in order; a tied head must be the embedding.

    Args:
        found: by published name; what is computed is passed over, and so is a tied head.
        lacks: whether a weight may be absent.
    Raises:
        WeightsError: one is missing, not asked for, of another shape; the message names the file.
    """
    found = {name: held for name, held in found.items() if not _COMPUTED.fullmatch(name)}
    missing = [name for name in model.shapes if name not in found and not lacks(name)]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise WeightsError(f"{where} lacks the weight {missing[0]}{more}; does config.json fit the weights?")
    if model.tied and model.head in found:
        _check_tied(found[model.embedding], found.pop(model.head))
    for name, held in found.items():
        if name not in model.shapes:
            raise WeightsError(f"{held.file} holds {held.name}, which config.json does not ask for")
        if held.shape != model.shapes[name]:
            raise WeightsError(
                f"{held.name} has shape {held.shape} in {held.file}, "
                f"config.json asks for {model.shapes[name]}"
            )
    ordered = [(name, found[name]) for name in model.shapes if name in found]
    return [Outgoing(name, held.dtype, held.shape, held.values) for name, held in ordered]


def _check_tied(embedding: Held, head: Held) -> None:
    """Some tools repeat the embedding as the head; one of two that differ would be lost."""
    theirs = head.values()
    if theirs.shape != embedding.shape:  # not turned as other matrices are: it is the embedding itself
        theirs = theirs.T
    if not same_bits(embedding.values(), theirs):
        raise WeightsError(
            f"{head.file}: {head.name} differs from {embedding.name}, and config.json ties them"
        )


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    kind = f"u{a.dtype.itemsize}"
    return np.array_equal(np.ascontiguousarray(a).view(kind), np.ascontiguousarray(b).view(kind))


def by_published_name(found: Mapping[str, Held], model: Model) -> dict[str, Held]:
    """Weights by their names here. Raises WeightsError where two names of one weight are there."""
    named: dict[str, Held] = {}
    for name, held in found.items():
        published = model.stored_name(name)
        if published in named:
            raise WeightsError(
                f"{held.file} holds {published} twice, as {named[published].name} and {held.name}"
            )
        named[published] = held
    return named


def read_published(folder: Path, model: Model) -> list[Outgoing]:
    """The weights of a published folder, checked against the configuration. Raises WeightsError."""
    found = {
        name: Held(name, one.file, one.dtype, one.shape, one.read)
        for name, one in read_folder(folder).items()
    }
    return accept(by_published_name(found, model), model, folder, model.may_lack)


_AUTHORS = (
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("multi_modal_projector.linear_1.", "model.mm_projector.0."),
    ("multi_modal_projector.linear_2.", "model.mm_projector.2."),
    ("image_newline", "model.image_newline"),
    ("vision_tower.", "model.vision_tower.vision_tower."),
)
"""Beginnings of llava-hf's names, and of those that the authors' folders have."""


def authors_name(name: str) -> str:
    ours, theirs = next(pair for pair in _AUTHORS if name.startswith(pair[0]))
    return theirs + name.removeprefix(ours)


def write_published(
    tensors: Sequence[Outgoing], model: Model, folder: Path, max_shard_bytes: int | None = None
) -> None:
    """Write safetensors files, a weight in memory at once; shards have at most `max_shard_bytes` (5 GiB)."""
    if model.by_authors:
        tensors = [Outgoing(authors_name(one.name), one.dtype, one.shape, one.values) for one in tensors]
    write_folder(folder, tensors, max_shard_bytes or 5 << 30)


def copy_beside(source: Path, target: Path) -> list[str]:
    """Copy what belongs to a model beside its weights; return the names."""
    found = {path.name: path for pattern in BESIDE for path in sorted(source.glob(pattern))}
    names = [name for name in found if name not in _WEIGHT_INDEXES]
    for name in names:
        shutil.copyfile(found[name], target / name)
    return names


def dtype_name(tensors: Sequence[Outgoing]) -> str:
    """The weights' dtype in words: that of most of them."""
    dtypes = [tensor.dtype for tensor in tensors]
    most = max(set(dtypes), key=dtypes.count)
    return _DTYPE_NAMES.get(most, most)
