"""One conversion: read any of the layouts, write any, read what was written and compare every bit."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mix_core.convert import mindspeed, paddle_layout, published
from mix_core.convert.stages import Stages, parse_stages
from mix_core.errors import BadInputError, RunFailedError
from mix_core.models.common.tensor_files import Outgoing

Layout = Literal["published", "paddle", "mindspeed-mm"]
LAYOUTS: tuple[Layout, ...] = ("published", "paddle", "mindspeed-mm")


@dataclass(frozen=True)
class Report:
    """What was done."""

    source_layout: str
    target_layout: str
    tensors: int
    size_bytes: int
    dtype: str
    stages: Stages | None = None
    """Of a MindSpeed-MM folder that was written, else of one that was read."""
    ranks: int = 1
    """Tensor-parallel ranks of that folder."""


@dataclass(frozen=True)
class _Read:
    tensors: list[Outgoing]
    stages: Stages | None = None
    ranks: int = 1


def layout_of(folder: Path) -> Layout:
    """The layout of the weights in a folder. Raises BadInputError where there are none."""
    if mindspeed.is_mindspeed_folder(folder):
        return "mindspeed-mm"
    if paddle_layout.is_paddle_folder(folder):
        return "paddle"
    if any(folder.glob("*.safetensors")) or any(folder.glob("*.safetensors.index.json")):
        return "published"
    raise BadInputError(
        f"{folder} holds no weights in a known layout: *.safetensors, *.pdparams or {mindspeed.LATEST}"
    )


def convert(
    source: str | Path,
    target: str | Path,
    *,
    to: Layout,
    source_layout: Layout | None = None,
    base: str | Path | None = None,
    vit_stages: str | None = None,
    llm_stages: str | None = None,
    ranks: int | None = None,
) -> Report:
    """Write `source`'s model to the new folder `target`, which appears when all of it is written and
    compared.

    Args:
        base: a published folder with config.json and the other files, where `source` has none (MindSpeed-MM).
        vit_stages, llm_stages, ranks: of a MindSpeed-MM folder to write; see `parse_stages`.
    Raises:
        BadInputError: an argument or a file cannot be used. RunFailedError: what was written differs.
    """
    source, target = Path(source), Path(target)
    if not source.is_dir():
        raise BadInputError(f"there is no folder {source}; expected one with a model's weights")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BadInputError(f"{target} is there and not empty; give a new folder")
    if to != "mindspeed-mm" and (vit_stages, llm_stages, ranks) != (None, None, None):
        raise BadInputError(
            "stages and tensor-parallel ranks belong to --to mindspeed-mm; the source's are seen"
        )
    layout = source_layout or layout_of(source)
    about = _about(source, base, layout)
    family, config = published.read_model_config(about)
    read = _read(source, layout, family, config)
    stages = None
    if to == "mindspeed-mm":
        ranks = 1 if ranks is None else ranks
        if ranks < 1:
            raise BadInputError(f"tp_size is {ranks}, expected 1 or more")
        mindspeed.check_tensor_parallel(config, published.published_shapes(family, config), ranks)
        depth, layers = config.vision.depth, config.text.num_hidden_layers
        stages = parse_stages(vit_stages, llm_stages, vit_layers=depth, llm_layers=layers)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        _write(read.tensors, to, unfinished, about, config, stages, ranks or 1)
        _compare(read.tensors, _read(unfinished, to, family, config).tensors)
        unfinished.chmod(0o777 & ~_umask())
        os.replace(unfinished, target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return Report(
        layout,
        to,
        len(read.tensors),
        sum(tensor.size_bytes for tensor in read.tensors),
        published.dtype_name(read.tensors),
        stages or read.stages,
        (ranks or 1) if stages else read.ranks,
    )


def _about(source: Path, base: str | Path | None, layout: Layout) -> Path:
    """The folder with config.json."""
    if base is not None:
        return Path(base)
    if layout == "mindspeed-mm" and not (source / "config.json").is_file():
        raise BadInputError(
            f"{source} has no config.json; give --base FOLDER, the published folder of this model"
        )
    return source


def _read(folder: Path, layout: Layout, family: str, config: Any) -> _Read:
    if layout == "mindspeed-mm":
        return _Read(*mindspeed.read_mindspeed(folder, family, config))
    expected = published.published_shapes(family, config)
    read = paddle_layout.read_paddle if layout == "paddle" else published.read_published
    return _Read(read(folder, expected, tied=config.tie_word_embeddings))


def _write(
    tensors: Sequence[Outgoing], to: Layout, folder: Path, about: Path, config: Any, stages: Any, ranks: int
) -> None:
    if to == "mindspeed-mm":
        mindspeed.write_mindspeed(tensors, config, folder, stages, ranks)
        return
    published.copy_beside(about, folder)
    if to == "paddle":
        paddle_layout.write_paddle(tensors, folder)
    else:
        published.write_published(tensors, folder)


def _compare(given: Sequence[Outgoing], written: Sequence[Outgoing]) -> None:
    """Every weight that was written, bit for bit."""
    for before, after in zip(given, written, strict=True):
        same = (before.name, before.dtype, before.shape) == (after.name, after.dtype, after.shape)
        if not same or not _same_bits(before.values(), after.values()):
            raise RunFailedError(
                f"{before.name} was read back differently from what was written; is the disk sound?"
            )


def _same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    kind = f"u{a.dtype.itemsize}"
    return np.array_equal(np.ascontiguousarray(a).view(kind), np.ascontiguousarray(b).view(kind))


def _umask() -> int:
    now = os.umask(0)
    os.umask(now)
    return now
