"""Keys of a run that change what config.json says, as InternVL2's own trainer writes them into it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mix_core.errors import BadInputError, ConfigError
from mix_core.models.internvl2.chat_templates import TEMPLATES
from mix_core.models.internvl2.config import InternVL2Config

_FIELDS = {
    "force_image_size": "force_image_size",
    "dynamic_image_size": "dynamic_image_size",
    "min_dynamic_patch": "min_dynamic_patch",
    "max_dynamic_patch": "max_dynamic_patch",
    "use_thumbnail": "use_thumbnail",
    "pad2square": "pad2square",
    "ps_version": "ps_version",
    "down_sample_ratio": "downsample_ratio",
    "vision_select_layer": "select_layer",
    "conv_style": "template",
}
_OF_TOWER = "drop_path_rate"
KEYS = frozenset({*_FIELDS, _OF_TOWER})
_TILES = ("min_dynamic_patch", "max_dynamic_patch", "use_thumbnail")


def configured(config: InternVL2Config, options: Mapping[str, Any]) -> InternVL2Config:
    """The configuration with these keys of `KEYS`; None leaves one as it is.

    Raises ConfigError where they contradict the model or each other.
    """
    given = {key: options[key] for key in KEYS if options.get(key) is not None}
    if not given:
        return config
    ratio = given.get("down_sample_ratio", config.downsample_ratio)
    if ratio != config.downsample_ratio:
        raise ConfigError(
            f"down_sample_ratio is {ratio:g}, but config.json has downsample_ratio = "
            f"{config.downsample_ratio:g}, which the width of mlp1 follows from; leave the key out"
        )
    style = given.get("conv_style", config.template)
    if "conv_style" in given and style not in TEMPLATES:
        raise ConfigError(
            f"conv_style is {style!r}; built are {', '.join(TEMPLATES)}; chat_template takes a file"
        )
    changes = {_FIELDS[key]: value for key, value in given.items() if key in _FIELDS}
    if _OF_TOWER in given:
        changes["vision"] = replace(config.vision, drop_path_rate=given[_OF_TOWER])
    try:
        changed = replace(config, **changes)
    except BadInputError as error:
        raise ConfigError(f"{', '.join(sorted(given))} do not fit the model: {error}") from None
    tiles = [key for key in _TILES if given.get(key)]
    if tiles and not changed.dynamic_image_size:
        raise ConfigError(
            f"{tiles[0]} asks for tiles, and dynamic_image_size is false; give dynamic_image_size: true"
        )
    return changed
