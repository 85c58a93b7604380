"""One conversion: read any of the layouts, write any, read what was written and compare every bit."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mix_core.convert import mindspeed, mindspeed_names, paddle_layout, paddle_names, published
from mix_core.convert.published import Model
from mix_core.convert.shapes import FAMILIES
from mix_core.convert.stages import Stages
from mix_core.errors import BadInputError, RunFailedError, WeightsError
from mix_core.models.common.tensor_files import Outgoing

Layout = Literal["published", "paddle", "mindspeed-mm"]
LAYOUTS: tuple[Layout, ...] = ("published", "paddle", "mindspeed-mm")
CONVERTIBLE: dict[Layout, tuple[str, ...]] = {
    "published": tuple(FAMILIES),
    "paddle": paddle_names.FAMILIES,
    "mindspeed-mm": mindspeed_names.FAMILIES,
}
"""The families that each layout exists for."""
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


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
class Form:
    """How the target is written; each layout knows some of it."""

    vit_stages: str | None = None
    llm_stages: str | None = None
    """Lists of layers for the stages of a MindSpeed-MM folder; see `parse_stages`."""
    ranks: int | None = None
    """Its tensor-parallel ranks."""
    max_shard_bytes: int | None = None
    """Greatest size of a file of weights, but for a weight that is larger; None: the layout's own."""
    safetensors: bool = False
    """Paddle's layout in safetensors files, not in pickles."""

    def check(self, to: Layout) -> None:
        """Refuse what the target's layout does not know. Raises BadInputError."""
        if to != "mindspeed-mm" and (self.vit_stages, self.llm_stages, self.ranks) != (None, None, None):
            raise BadInputError(
                "stages and tensor-parallel ranks belong to --to mindspeed-mm; the source's are seen"
            )
        if to != "paddle" and self.safetensors:
            raise BadInputError(
                "safe_serialization belongs to --to paddle; published folders have no other form"
            )
        if to == "mindspeed-mm" and self.max_shard_bytes is not None:
            raise BadInputError("max_shard_size does not belong to --to mindspeed-mm: a rank is one file")


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
    if _has_safetensors(folder):
        return "published"
    raise BadInputError(
        f"{folder} holds no weights in a known layout: *.safetensors, *.pdparams or {mindspeed.LATEST}"
    )


def _has_safetensors(folder: Path) -> bool:
    return any(folder.glob("*.safetensors")) or any(folder.glob("*.safetensors.index.json"))


def convert(
    source: str | Path,
    target: str | Path,
    *,
    to: Layout,
    source_layout: Layout | None = None,
    base: str | Path | None = None,
    form: Form | None = None,
) -> Report:
    """Write `source`'s model to the new folder `target`, which appears when all of it is written and
    compared.

    Args:
        base: a folder with config.json and the other files, where `source` has none (MindSpeed-MM) or has
            them in a tool's own form; and with the weights for which the source's layout has no place.
    Raises:
        BadInputError: an argument or a file cannot be used. RunFailedError: what was written differs, or
            there is no space for it.
    """
    source, target, form = Path(source), Path(target), form or Form()
    if not source.is_dir():
        raise BadInputError(f"there is no folder {source}; expected one with a model's weights")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BadInputError(f"{target} is there and not empty; give a new folder")
    form.check(to)
    layout = source_layout or layout_of(source)
    about = _about(source, base, layout)
    model = published.read_model(about)
    for one in (layout, to):
        _check_convertible(model.family, one)
    stages = None
    if to == "mindspeed-mm":
        mindspeed.check_tensor_parallel(model, 1 if form.ranks is None else form.ranks)
        stages = mindspeed.planned_stages(model, form.vit_stages, form.llm_stages)
    read = _read(source, layout, model)
    tensors = _completed(read.tensors, model, to, about if about != source else None, layout)
    _write_beside(tensors, to, target, about, model, stages, form)
    return Report(
        layout,
        to,
        len(tensors),
        sum(tensor.size_bytes for tensor in tensors),
        published.dtype_name(tensors),
        stages or read.stages,
        (form.ranks or 1) if stages else read.ranks,
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


def _check_convertible(family: str, layout: Layout) -> None:
    if family not in CONVERTIBLE[layout]:
        raise BadInputError(
            f"there is no {layout} layout of {family}; {layout} exists for {', '.join(CONVERTIBLE[layout])}"
        )


def _read(folder: Path, layout: Layout, model: Model) -> _Read:
    if layout == "mindspeed-mm":
        return _Read(*mindspeed.read_mindspeed(folder, model))
    read = paddle_layout.read_paddle if layout == "paddle" else published.read_published
    return _Read(read(folder, model))


def _completed(
    tensors: list[Outgoing], model: Model, to: Layout, base: Path | None, layout: Layout
) -> list[Outgoing]:
    """The weights that the target's layout has a place for; what the source's has none for is the base's."""
    unplaced = mindspeed_names.absent(model) if to == "mindspeed-mm" else frozenset[str]()
    found = {tensor.name: tensor for tensor in tensors}
    needed = [name for name in model.shapes if name not in found and name not in unplaced]
    if needed and base is not None and _has_safetensors(base):
        of_base = {tensor.name: tensor for tensor in _read(base, layout_of(base), model).tensors}
        found |= {name: of_base[name] for name in needed if name in of_base}
    missing = [name for name in needed if name not in found]
    if to != "mindspeed-mm":
        missing = [name for name in missing if not model.may_lack(name)]
    if missing:
        raise WeightsError(
            f"the source lacks {len(missing)} weights, the first {missing[0]}: its {layout} layout keeps "
            "them elsewhere or drops them; give --base FOLDER, a published folder that has them"
        )
    return [found[name] for name in model.shapes if name in found and name not in unplaced]


def _write_beside(
    tensors: list[Outgoing],
    to: Layout,
    target: Path,
    about: Path,
    model: Model,
    stages: Stages | None,
    form: Form,
) -> None:
    """Write to a hidden folder, compare, and rename it to `target`; on any error it is gone."""
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        _write(tensors, to, unfinished, about, model, stages, form)
        _compare(tensors, _read(unfinished, to, model).tensors)
        unfinished.chmod(0o777 & ~_umask())
        os.replace(unfinished, target)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        size = sum(tensor.size_bytes for tensor in tensors) / 1e6
        raise RunFailedError(
            f"{target} was not written: no space left; the weights need {size:.1f} MB, make room or give a "
            "folder on another disk"
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write(
    tensors: list[Outgoing],
    to: Layout,
    folder: Path,
    about: Path,
    model: Model,
    stages: Stages | None,
    form: Form,
) -> None:
    if stages is not None:
        mindspeed.write_mindspeed(tensors, model, folder, stages, form.ranks or 1)
        return
    published.copy_beside(about, folder)
    if to == "paddle":
        paddle_layout.write_paddle(tensors, model, folder, form.max_shard_bytes, safetensors=form.safetensors)
    else:
        published.write_published(tensors, model, folder, form.max_shard_bytes)


def _compare(given: Sequence[Outgoing], written: Sequence[Outgoing]) -> None:
    """Every weight that was written, bit for bit."""
    for before, after in zip(given, written, strict=True):
        same = (before.name, before.dtype, before.shape) == (after.name, after.dtype, after.shape)
        if not same or not published.same_bits(before.values(), after.values()):
            raise RunFailedError(
                f"{before.name} was read back differently from what was written; is the disk sound?"
            )


def _umask() -> int:
    now = os.umask(0)
    os.umask(now)
    return now
