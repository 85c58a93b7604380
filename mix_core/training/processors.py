"""The processor of a run: the model folder's, with the options, tokens and chat template of the
configuration.

The training process and its data workers make it in the same way. Imports no paddle.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mix_core.errors import ConfigError
from mix_core.models.common.custom_template import load_template
from mix_core.models.registry import family_of_folder

if TYPE_CHECKING:
    from mix_core.config import RunConfig

TOKENS, TEMPLATE, OF_SETS = "new_special_tokens", "chat_template", "chat_templates_of_sets"


def model_options(config: RunConfig) -> dict[str, Any]:
    """The keys, of those given, that change what the model's config.json says."""
    from mix_core.config_fields import TileKeys  # data workers import this module, and no pydantic

    values = {name: getattr(config, name) for name in TileKeys.model_fields}
    return {name: value for name, value in values.items() if value is not None}


def processor_options(config: RunConfig) -> dict[str, Any]:
    """The keys that change what the model folder says; None leaves it as it is."""
    return {
        "image_min_pixels": config.image_min_pixels,
        "image_max_pixels": config.image_max_pixels,
        "video_min_pixels": config.video_min_pixels,
        "video_max_pixels": config.video_max_pixels,
        "image_resolution": config.image_resolution,
        "video_resolution": config.video_resolution,
        "video_fps": config.video_fps,
        "video_max_frames": config.video_maxlen,
        "allow_private_urls": config.allow_private_urls or None,
        TOKENS: config.new_special_tokens,
        TEMPLATE: config.chat_template,
        OF_SETS: config.chat_templates_of_sets,
        **model_options(config),
    }


def make_processor(folder: str | Path, options: dict[str, Any]) -> Any:
    """The processor of a model folder with these options.

    Raises:
        BadInputError: the folder, an option or the chat template cannot be used.
    """
    rest = {name: value for name, value in options.items() if name not in (TOKENS, TEMPLATE, OF_SETS)}
    processor = family_of_folder(Path(folder)).load_processor(Path(folder)).with_options(**rest)
    if options.get(TOKENS):
        if not hasattr(processor.tokenizer, "add_special_tokens"):
            raise ConfigError(f"new_special_tokens: the tokenizer of {folder} takes no further tokens")
        processor.tokenizer.add_special_tokens(options[TOKENS])
    own, variables = processor.chat_template, processor.tokenizer.special_tokens
    if options.get(OF_SETS):
        processor.templates = {name: load_template(name, own, variables) for name in options[OF_SETS]}
    if options.get(TEMPLATE):
        processor.chat_template = load_template(options[TEMPLATE], own, variables)
    return processor
