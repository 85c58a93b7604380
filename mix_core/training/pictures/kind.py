"""What a text-to-image run settles before the device is activated; imports no paddle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mix_core.config_pictures import NO_SAY_WITH_PICTURES
from mix_core.errors import BadInputError, ConfigError
from mix_core.inference.text_to_image.sources import FolderSource, is_picture_model
from mix_core.schedulers import check_fits
from mix_core.training.pictures.rows import PictureRows, read_picture_rows

if TYPE_CHECKING:
    from mix_core.config import RunConfig


@dataclass(frozen=True)
class MakeSession:
    """Makes the session of a run with this model."""

    source: FolderSource
    side: int
    """Pixels of a square picture."""

    def __call__(self, *arguments: Any) -> Any:
        from mix_core.training.pictures.session import PictureSession

        return PictureSession(self.source, self.side, *arguments)


def picture_run(config: RunConfig, folder: Path) -> tuple[str, PictureRows, Callable[..., Any]]:
    """The family's name, the pictures, and what makes the session.

    Raises:
        BadInputError, ConfigError, DataError: what is wrong, in one line.
    """
    if not folder.is_dir() or not is_picture_model(folder):
        raise BadInputError(f"{folder} is a single file; training needs the folder of a model")
    source = FolderSource(folder, vae=config.pretrained_vae_model_name_or_path)
    check_fits(source.scheduler, flow=source.family.flow, model=source.family.title)
    _check_keys(config)
    if source.geometry.inpaints:
        raise BadInputError(f"{folder} holds a model for inpainting, which is not trained here")
    side = config.resolution or min(source.geometry.usual_size)
    try:
        source.geometry.check(side, side)
    except BadInputError as error:
        raise ConfigError(f"resolution: {error}") from None
    if config.aspect_ratio_buckets and config.bucket_step % source.geometry.multiple:
        raise ConfigError(
            f"bucket_step is {config.bucket_step}, expected a multiple of {source.geometry.multiple}: the "
            "model takes no other sides"
        )
    if config.scored_digits % 10:
        raise ConfigError(f"scored_digits is {config.scored_digits}, expected a multiple of 10")
    return source.family.name, read_picture_rows(config), MakeSession(source, side)


def _check_keys(config: RunConfig) -> None:
    defaults = type(config).model_fields
    for key in NO_SAY_WITH_PICTURES:
        field = defaults[key]
        if key in config.model_fields_set and getattr(config, key) != field.get_default(
            call_default_factory=True
        ):
            raise ConfigError(f"{key} has no say in text-to-image training; leave it out")
    if config.text_encoder_lr is not None and not config.train_text_encoder:
        raise ConfigError("text_encoder_lr has a say with train_text_encoder only; give both or neither")
    if config.text_encoder_lr is not None and config.learning_rate == 0:
        raise ConfigError("text_encoder_lr is given and learning_rate is 0; freeze the network instead")
    if "ema_decay" in config.model_fields_set and not config.use_ema:
        raise ConfigError("ema_decay has a say with use_ema only; give both or neither")
