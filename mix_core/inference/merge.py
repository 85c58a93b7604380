"""Merge an adapter into its model, write the result in the published layout, and prove it by logits.

Shapes: B batch, S sequence, V vocabulary.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mix_core.errors import BadInputError, RunFailedError
from mix_core.inference.conversation import conversation
from mix_core.inference.engine import DTYPES, Engine, load
from mix_core.models.common.adapter_files import read_adapter
from mix_core.models.common.hub import resolve_model_folder
from mix_core.models.common.tensor_files import read_folder

QUESTION = "Describe what you see, and count to seven."
"""What adapter, merged and reloaded model are asked, with a picture and without."""

FARTHEST = 1e-4
"""How far merged logits may lie from the adapter's, as a part of the largest logit, both in float32."""

SAME = 1e-6
"""How far the reloaded model's may lie from those that were written."""

_OF_STORED = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


@dataclass(frozen=True)
class MergeReport:
    """What was compared: largest differences of logits, as parts of the largest logit."""

    out: Path
    dtype: str
    maps: int
    """Linear maps that the adapter changed."""
    from_base: float
    """Adapter against the model alone: what the adapter does."""
    merged: float
    """Merged against adapter, both in float32."""
    rounded: float
    """Merged and rounded to the dtype that is written, against adapter."""
    reloaded: float
    """What was written, read again, against that."""
    model: Path
    over_rounded: str | None = None
    """How the weights under the adapter were rounded while it learned."""

    def text(self) -> str:
        nothing = "; the adapter changes nothing" if self.from_base == 0.0 else ""
        said = (
            f"the adapter learned over weights rounded by {self.over_rounded}; it is merged into those of "
            f"{self.model} as they are published",
        )
        return "\n".join(
            (
                *(said if self.over_rounded else ()),
                f"{self.maps} maps merged, weights in {self.dtype}{nothing}",
                f"  adapter against the model alone  {self.from_base:.1e} of the largest logit",
                f"  merged against adapter           {self.merged:.1e}",
                f"  rounded to {self.dtype + ',':<10} against it  {self.rounded:.1e}",
                f"  reloaded against rounded         {self.reloaded:.1e}",
                f"done: {self.out}",
            )
        )


def merge(
    model: str | None, adapter: str | Path, out: str | Path, written_dtype: str | None = None, **loading: Any
) -> MergeReport:
    """Merge `adapter` into `model` and write `out`, which appears only once its logits are right.

    Args:
        model: folder or hub name; None: the one that the adapter's configuration names.
        written_dtype: of the weights to write; None: that of the model's own.
        loading: keywords of `load`; everything is computed in float32.
    Raises:
        BadInputError: `out` is there already, or an input cannot be used.
        RunFailedError: the logits differ; nothing is left behind.
    """
    out = Path(out)
    if out.exists():
        raise BadInputError(f"{out} is there already; give a folder that is not")
    if not out.absolute().parent.is_dir():
        raise BadInputError(f"{out.absolute().parent} is no folder; make it first")
    if written_dtype not in (None, *DTYPES):
        raise BadInputError(f"dtype is {written_dtype!r}, expected one of {', '.join(DTYPES)}")
    folder = resolve_model_folder(model or read_adapter(adapter).base)
    dtype = written_dtype or _dtype_of(folder)
    loading |= {"dtype": "float32", "lora": None}
    engine = load(folder, **{**loading, "lora": {"lora": adapter}})
    asked = _asked(engine)
    before = _logits(engine, asked)
    engine.set_adapter(None)
    alone = _logits(engine, asked)
    engine.set_adapter("lora")
    from mix_core.models.common.lora import adapted_maps, merge_adapter

    maps = len({one.name for one in adapted_maps(engine.model, engine.family.published_name)})
    merge_adapter(engine.model)
    merged = _apart(_logits(engine, asked), before)
    _check_merged(merged, _apart(alone, before))
    if dtype != "float32":
        engine.model.to(dtype=dtype)
        engine.model.to(dtype="float32")
    rounded = _logits(engine, asked)
    partial = out.absolute().with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        _write(engine, partial, dtype)
        again = load(partial, **loading)
        reloaded = _apart(_logits(again, _asked(again)), rounded)
        if not reloaded <= SAME:
            raise RunFailedError(
                f"the weights that were written, read again, differ by {reloaded:.1e} of the largest logit; "
                "nothing was kept"
            )
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    apart = _apart(alone, before), merged, _apart(rounded, before), reloaded
    return MergeReport(out, dtype, maps, *apart, folder, read_adapter(adapter).rounded)


def _dtype_of(folder: Path) -> str:
    """In which most of a model's numbers are stored."""
    sizes: dict[str, int] = {}
    for tensor in read_folder(folder).values():
        count = int(np.prod(tensor.shape, dtype=np.int64))
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + count
    return _OF_STORED.get(max(sizes, key=sizes.__getitem__), "float32")


def _write(engine: Engine, folder: Path, dtype: str) -> None:
    if dtype != "float32":
        engine.model.to(dtype=dtype)
    engine.family.save_weights(engine.model, folder)
    engine.family.write_config(engine.model.config, folder, dtype=dtype)
    engine.processor.save(folder)


def _asked(engine: Engine) -> list[dict[str, np.ndarray]]:
    """A text, and a text with a picture, as the model's inputs under the chat template in use."""
    from PIL import Image

    side = np.linspace(0, 255, 112)
    pixels = np.stack([*np.meshgrid(side, side), np.full((112, 112), 99.0)], axis=-1)
    picture = Image.fromarray(pixels.astype(np.uint8))
    asked = []
    for pictures in ([], [picture]):
        turns = conversation(QUESTION, pictures)
        text = engine.processor.apply_chat_template(turns, add_generation_prompt=True)
        asked.append(engine.processor(text=[text], images=pictures, videos=[], padding_side="left"))
    return asked


def _logits(engine: Engine, asked: list[dict[str, np.ndarray]]) -> list[np.ndarray]:
    """Of each input: (1, S, V) float32."""
    return [engine.forward(**inputs) for inputs in asked]


def _apart(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    return max(float(np.abs(a - b).max() / max(float(np.abs(b).max()), 1e-30)) for a, b in zip(ours, theirs))


def _check_merged(merged: float, alone: float) -> None:
    """Raise RunFailedError unless merging did what the adapter does; `alone`: how far doing nothing is."""
    if not merged <= FARTHEST or (merged > SAME and merged > 0.5 * alone):
        raise RunFailedError(
            f"merged logits differ from the adapter's by {merged:.1e} of the largest, at most {FARTHEST:.0e} "
            f"was expected, and the model alone by {alone:.1e}; nothing was written"
        )
