"""What a run trains, by its model's folder: a language model that reads pictures, or one that makes them.

Importing this module imports no paddle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mix_core.config_pictures import picture_keys
from mix_core.errors import ConfigError
from mix_core.inference.text_to_image.sources import is_picture_model
from mix_core.models.common.adapter_files import is_adapter
from mix_core.models.diffusion.adapter_files import FILE as PICTURE_ADAPTER
from mix_core.models.registry import Later, family_of_folder
from mix_core.training.pictures.kind import picture_run
from mix_core.training.rows import read_rows

if TYPE_CHECKING:
    from mix_core.config import RunConfig


@dataclass(frozen=True)
class RunKind:
    """What is settled before the device is activated."""

    task: Literal["understanding", "generation"]
    model: str
    rows: Any
    """`Rows` or `PictureRows`."""
    session: Callable[..., Any]
    """Makes the session; imports paddle."""


def kind_of_run(config: RunConfig, source: Path) -> RunKind:
    """Look at the model's folder and read the rows.

    Raises:
        BadInputError, ConfigError, DataError: what is wrong with model, keys or rows, in one line.
    """
    if is_picture_model(source):
        return RunKind("generation", *picture_run(config, source))
    defaults = type(config).model_fields
    for key in picture_keys():
        if getattr(config, key) != defaults[key].default:
            raise ConfigError(
                f"{key} is of text-to-image training, and {source} holds no text-to-image model "
                "(model_index.json); leave it out"
            )
    family = family_of_folder(source)
    return RunKind(
        "understanding", family.name, read_rows(config), Later("mix_core.training.session", "Session")
    )


def holds_adapter(folder: Path) -> bool:
    """Whether a checkpoint is of a run with `lora`."""
    return is_adapter(folder) or (folder / PICTURE_ADAPTER).is_file()
