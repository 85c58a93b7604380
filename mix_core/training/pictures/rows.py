"""The pictures of a run, found before the device is touched: folders, captions, prompts to look at."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mix_core.data.captions import CSV, JSONL, PICTURES, CaptionedPicture, read_captions
from mix_core.data.digit_captions import ensure_captioned_digits
from mix_core.data.hub_pictures import fetch_pictures
from mix_core.data.parquet_pictures import parquet_files, pictures_of_parquet
from mix_core.errors import ConfigError, DataError
from mix_core.training.record import data_record
from mix_core.training.rows import cache_folder

if TYPE_CHECKING:
    from mix_core.config import RunConfig


@dataclass(frozen=True)
class PictureRows:
    """What a run learns from, and what it shows at its end."""

    train: list[CaptionedPicture]
    folder: Path | None = None
    kept: list[CaptionedPicture] = field(default_factory=list)
    """Pictures of the class that is to be kept; those that lack are made when the model is there."""
    kept_folder: Path | None = None
    eval: list[str] = field(default_factory=list)
    """Prompts of the pictures that are made."""

    def to_json(self) -> dict[str, Any]:
        """For run.json: counts, and the files that hold captions with their checksums."""
        return {
            "train": data_record(self._files(), len(self.train)),
            "eval": {"rows": len(self.eval), "files": {}},
        }

    def _files(self) -> list[Path]:
        if self.folder is None:
            return []
        return [self.folder / name for name in (JSONL, CSV) if (self.folder / name).is_file()]


def read_picture_rows(config: RunConfig) -> PictureRows:
    """The pictures that a configuration names.

    Raises:
        ConfigError: none are named, or keys contradict each other.
        DataError: a folder, captions or a picture are missing.
    """
    prompts = list(config.validation_prompt or [])
    if config.scored_digits:
        prompts.append(config.digit_prompt)
    if not config.do_train:
        return PictureRows([], eval=prompts)
    if config.instance_data_dir is not None:
        return _dreambooth(config, prompts)
    for key in ("instance_prompt", "class_data_dir", "class_prompt", "with_prior_preservation"):
        if getattr(config, key):
            raise ConfigError(
                f"{key} is of DreamBooth and instance_data_dir is missing; give it, or leave it out"
            )
    folder = _folder(config)
    return PictureRows(read_captions(folder, config.caption_column), folder, eval=prompts)


def _folder(config: RunConfig) -> Path:
    given = [
        key for key in ("bundled_data", "train_data_dir", "dataset_name") if getattr(config, key) is not None
    ]
    if len(given) != 1:
        found = " and ".join(given) or "none"
        raise ConfigError(
            f"expected one of train_data_dir, dataset_name, instance_data_dir and bundled_data, got {found}"
        )
    if config.bundled_data is not None:
        return ensure_captioned_digits(cache_folder(config) / "captioned_digits")
    name = config.train_data_dir or config.dataset_name or ""
    folder = Path(name).expanduser()
    if config.train_data_dir is None and not folder.is_dir():
        folder = fetch_pictures(name, config.revision)
    files = parquet_files(folder)
    return pictures_of_parquet(files, cache_folder(config)) if files else folder


def _dreambooth(config: RunConfig, prompts: list[str]) -> PictureRows:
    if config.instance_prompt is None:
        raise ConfigError("instance_prompt is missing: the prompt of all pictures in instance_data_dir")
    folder = Path(config.instance_data_dir or "").expanduser()
    train = read_captions(folder, prompt=config.instance_prompt)
    if not config.with_prior_preservation:
        for key in ("class_data_dir", "class_prompt"):
            if getattr(config, key) is not None:
                raise ConfigError(f"{key} has a say with with_prior_preservation only; give both or neither")
        return PictureRows(train, folder, eval=prompts)
    if config.class_prompt is None or config.class_data_dir is None:
        raise ConfigError("with_prior_preservation needs class_prompt and class_data_dir")
    kept_folder = Path(config.class_data_dir).expanduser()
    return PictureRows(train, folder, class_pictures(kept_folder, config.class_prompt), kept_folder, prompts)


def class_pictures(folder: Path, prompt: str) -> list[CaptionedPicture]:
    """Those that are there already. Raises DataError where the path is a file."""
    if folder.exists() and not folder.is_dir():
        raise DataError(
            f"class_data_dir {folder} is a file, expected a folder that pictures may be written to"
        )
    there = folder.is_dir() and any(path.suffix.lower() in PICTURES for path in folder.rglob("*"))
    return read_captions(folder, prompt=prompt) if there else []
