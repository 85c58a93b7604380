"""The rows of a run: read from the configured sets, or from the data that mix-core carries."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mix_core.data.digits import ensure_digits
from mix_core.data.readers import SetSpec, dataset_files, parse_spec, read_dataset
from mix_core.data.table import RowTable
from mix_core.errors import ConfigError, DataError
from mix_core.training.record import data_record

if TYPE_CHECKING:
    from mix_core.config import RunConfig
    from mix_core.config_fields import DatasetEntry

META_KEYS = (
    *("annotation", "file_name", "root", "repeat_time", "weight", "max_samples"),
    "max_dynamic_patch",
)
META_WITHOUT_SAY = ("length", "data_augment")
"""`length` is counted here, `data_augment` may only be false."""

Spec = str | list[dict[str, Any]]
"""A data set as the readers take it: a comma list of files, or entries."""


@dataclass(frozen=True)
class Rows:
    """What a run learns from and what it is asked about."""

    train: RowTable | list[dict[str, Any]]
    train_sizes: list[int]
    """Rows of each set in `train`, in order."""
    eval: list[dict[str, Any]]
    train_files: list[Path]
    eval_files: list[Path]
    train_repeats: list[float] | None = None
    """How often each set's rows come in an epoch. None: once."""
    train_weights: list[float] | None = None
    """Share of an epoch of each set. None: as many visits as it has rows."""

    def to_json(self) -> dict[str, Any]:
        """For run.json: files with checksums, and counts."""
        return {
            "train": data_record(self.train_files, len(self.train)),
            "eval": data_record(self.eval_files, len(self.eval)),
        }


def cache_folder(config: RunConfig) -> Path:
    """Where data that can be made again is kept."""
    return Path(config.cache_dir or os.environ.get("MIX_CACHE") or Path.home() / ".cache" / "mix_core")


def read_meta(path: str) -> list[dict[str, Any]]:
    """The entries of a meta file, `{name: {annotation or file_name, root, repeat_time, ...}}`.

    The form of InternVL and of PaddleMIX's Qwen2.5-VL; `weight` and `max_samples` are our own. Raises
    DataError: it is not there, not of that form, or asks for what is not built.
    """
    try:
        sets = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"meta_path {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"meta_path {path} is no JSON: {error}") from None
    form = "{name: {annotation or file_name, root, repeat_time}}"
    if not isinstance(sets, dict) or not sets:
        raise DataError(f"meta_path {path} holds {type(sets).__name__}, expected {form}")
    return [_meta_entry(f"meta_path {path}, set {name!r}", name, entry) for name, entry in sets.items()]


def _meta_entry(where: str, name: str, entry: Any) -> dict[str, Any]:
    if not isinstance(entry, dict) or not (file := entry.get("annotation") or entry.get("file_name")):
        raise DataError(f"{where} names no file; expected {{name: {{annotation or file_name, repeat_time}}}}")
    if unknown := sorted(entry.keys() - {*META_KEYS, *META_WITHOUT_SAY}):
        raise DataError(f"{where}: unknown key {unknown[0]!r}; expected {', '.join(META_KEYS)}")
    if entry.get("data_augment"):
        raise DataError(
            f"{where}: data_augment asks for changed pictures, not built; leave it out or give false"
        )
    numbers = {key: entry[key] for key in ("repeat_time", "weight") if entry.get(key) is not None}
    for key, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
            raise DataError(f"{where}: {key} is {value!r}, expected a number above 0")
    tiles = entry.get("max_dynamic_patch")
    if tiles is not None and (type(tiles) is not int or tiles < 1):
        raise DataError(f"{where}: max_dynamic_patch is {tiles!r}, expected a whole number above 0")
    kept = ("root", "max_samples", "max_dynamic_patch")
    rest = {key: entry[key] for key in kept if entry.get(key) is not None}
    return {"name": name, "data_files": str(file), **rest, **numbers}


def read_rows(config: RunConfig) -> Rows:
    """Read the rows that a configuration names.

    Raises:
        DataError: a file is missing or wrong, or a set holds nothing.
        ConfigError: no rows are named.
    """
    train, evaluation = _spec(config.dataset.train), _spec(config.dataset.eval)
    if config.bundled_data == "digits":
        folder = ensure_digits(cache_folder(config) / "digits")
        train, evaluation = str(folder / "train.json"), evaluation or str(folder / "eval.json")
    elif config.meta_path is not None:
        train = read_meta(config.meta_path)
    if train is None and config.do_train:
        raise ConfigError("no rows to train on: give dataset, data_path, meta_path or bundled_data")
    root = config.dataset_dir
    wanted = train if config.do_train else None
    sets = parse_spec(wanted) if wanted else []
    learned = (
        read_dataset(
            wanted,
            image_root=root,
            max_samples=config.max_samples,
            index_folder=cache_folder(config) / "index",
            keep_bad=config.on_bad_sample == "skip",
        )
        if wanted
        else RowTable([])
    )
    return Rows(
        train=learned,
        train_sizes=[len(rows) for rows in learned.sets],
        eval=list(read_dataset(evaluation, image_root=root)) if evaluation else [],
        train_files=dataset_files(wanted) if wanted else [],
        eval_files=dataset_files(evaluation) if evaluation else [],
        train_repeats=[one.repeat_time for one in sets],
        train_weights=_weights(sets, config.use_data_resampling),
    )


def _weights(sets: list[SetSpec], resampling: bool) -> list[float] | None:
    """The sets' own weights, all or none."""
    given = {one.name: one.weight for one in sets}
    lacking = [name for name, weight in given.items() if weight is None]
    if len(lacking) == len(given):
        return None
    if lacking:
        raise ConfigError(f"the data set {lacking[0]} has no weight and another has one; give each set one")
    if resampling:
        raise ConfigError(
            "use_data_resampling weighs the sets by their sizes, and they have weights; give one"
        )
    return [float(one.weight or 0.0) for one in sets]


def _spec(given: str | list[DatasetEntry] | None) -> Spec | None:
    """A configured set as the readers take it."""
    return [entry.model_dump(exclude_none=True) for entry in given] if isinstance(given, list) else given
