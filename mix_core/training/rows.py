"""The rows of a run: read from the configured sets, or from the data that mix-core carries."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mix_core.data.digits import ensure_digits
from mix_core.data.readers import dataset_files, read_dataset
from mix_core.errors import ConfigError, DataError
from mix_core.training.record import data_record

if TYPE_CHECKING:
    from mix_core.config import RunConfig
    from mix_core.config_fields import DatasetEntry

Spec = str | list[dict[str, Any]]
"""A data set as the readers take it: a comma list of files, or entries."""


@dataclass(frozen=True)
class Rows:
    """What a run learns from and what it is asked about."""

    train: list[dict[str, Any]]
    train_sizes: list[int]
    """Rows of each set in `train`, in order."""
    eval: list[dict[str, Any]]
    train_files: list[Path]
    eval_files: list[Path]

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
    """The entries of a meta file, `{name: {annotation or file_name, repeat_time}}`.

    Raises:
        DataError: it is not there or not of that form.
    """
    try:
        sets = json.loads(Path(path).read_text(encoding="utf-8"))
        return [
            {
                "name": name,
                "data_files": entry.get("annotation") or entry["file_name"],
                "repeat_time": float(entry.get("repeat_time", 1)),
            }
            for name, entry in sets.items()
        ]
    except OSError as error:
        raise DataError(f"meta_path {path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise DataError(
            f"meta_path {path}: {error!r}; expected {{name: {{annotation or file_name, repeat_time}}}}"
        ) from None


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
    sets = [read_dataset(one, image_root=root, max_samples=config.max_samples) for one in _each(wanted)]
    return Rows(
        train=[row for rows in sets for row in rows],
        train_sizes=[len(rows) for rows in sets],
        eval=read_dataset(evaluation, image_root=root) if evaluation else [],
        train_files=dataset_files(wanted) if wanted else [],
        eval_files=dataset_files(evaluation) if evaluation else [],
    )


def _each(spec: Spec | None) -> list[Spec]:
    """The sets of a specification, one by one."""
    if spec is None:
        return []
    if isinstance(spec, str):
        return [part for part in spec.split(",") if part.strip()]
    return [[entry] for entry in spec]


def _spec(given: str | list[DatasetEntry] | None) -> Spec | None:
    """A configured set as the readers take it."""
    return [entry.model_dump(exclude_none=True) for entry in given] if isinstance(given, list) else given
