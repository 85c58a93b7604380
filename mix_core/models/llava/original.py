"""The folders of LLaVA's authors (`llava_llama`, `llava_mistral`): what their config.json says.

They differ from llava-hf's in more than names. The picture has no token in the vocabulary: the next free id
is taken, and the embedding grows as llava-hf's did. Pinpoints are (width, height). Neither tower nor picture
settings are in the folder: `mm_vision_tower` names where they are. There is no chat template.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mix_core.errors import BadInputError
from mix_core.models.common.config_values import take
from mix_core.models.common.hub import resolve_model_folder
from mix_core.models.llava.config import (
    LlavaConfig,
    Size,
    VisionConfig,
    pinpoints_of,
    text_config,
    vision_config,
)
from mix_core.models.registry import read_config

_LARGE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
}
KNOWN_TOWERS: dict[str, dict[str, Any]] = {
    "openai/clip-vit-large-patch14-336": {**_LARGE, "image_size": 336},
    "openai/clip-vit-large-patch14": {**_LARGE, "image_size": 224},
}
"""Sizes of the towers that published folders name, so that reading a configuration fetches nothing."""

_EXPECTED = {
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_resampler_type": (None,),
    "mm_use_im_start_end": (False, None),
    "mm_vision_select_feature": ("patch", "cls_patch"),
    "image_aspect_ratio": ("pad", "anyres", "square", None),
}
_ROWS_MULTIPLE = 64
"""llava-hf rounds the vocabulary up to a multiple of this, after the picture's and the padding's token."""

VICUNA = """\
{%- if messages and messages[0]['role'] != 'system' -%}
A chat between a curious user and an artificial intelligence assistant. \
The assistant gives helpful, detailed, and polite answers to the user's questions. {# #}
{%- endif -%}
{%- for message in messages -%}
{%- set role = message['role'] -%}
{%- if role != 'system' -%}{{ role | upper }}: {# #}{%- endif -%}
{%- for part in message['content'] if part['type'] == 'image' -%}{{ '<image>\\n' }}{%- endfor -%}
{%- for part in message['content'] if part['type'] == 'text' -%}{{ part['text'] }}{%- endfor -%}
{{ eos_token if role == 'assistant' else ' ' }}
{%- endfor -%}
{%- if add_generation_prompt -%}ASSISTANT:{%- endif -%}
"""
"""vicuna_v1: every turn after its role; answers end with the end token, questions with a blank."""

MISTRAL = """\
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}
{{ '<<SYS>>\\n' + message['content'][0]['text'] + '\\n<</SYS>>\\n\\n' }}
{%- elif message['role'] == 'user' -%}
{{ '[INST] ' }}
{%- for part in message['content'] if part['type'] == 'image' -%}{{ '<image>\\n' }}{%- endfor -%}
{%- for part in message['content'] if part['type'] == 'text' -%}{{ part['text'] }}{%- endfor -%}
{{ ' [/INST]' }}
{%- else -%}
{{ ' ' + message['content'][0]['text'] + ' ' + eos_token }}
{%- endif -%}
{%- endfor -%}
"""
"""mistral_instruct: questions between [INST] and [/INST], answers end with the end token."""


def config_from_original(source: dict[str, Any]) -> LlavaConfig:
    """Build the configuration from the authors' config.json. Raises BadInputError."""
    for key, expected in _EXPECTED.items():
        if source.get(key, expected[0]) not in expected:
            built = ", ".join(repr(value) for value in expected)
            raise BadInputError(f"config.json has {key} = {source[key]!r}; built: {built}")
    stored = take(source, "vocab_size", "", int)
    kind = "mistral" if "mistral" in source["model_type"] else "llama"
    grown = -(-(stored + 2) // _ROWS_MULTIPLE) * _ROWS_MULTIPLE
    text = text_config({**source, "model_type": kind, "vocab_size": grown}, "")
    return LlavaConfig(
        text=text,
        vision=tower_config(take(source, "mm_vision_tower", "", str)),
        image_token_id=stored,
        vision_feature_layer=take(source, "mm_vision_select_layer", "", int),
        keep_class_token=source.get("mm_vision_select_feature") == "cls_patch",
        projector_bias=True,
        tie_word_embeddings=bool(source.get("tie_word_embeddings", False)),
        pinpoints=original_pinpoints(source),
        pad_token_id=stored + 1,
    )


def original_pinpoints(source: dict[str, Any]) -> tuple[Size, ...] | None:
    """(height, width) of each, in the authors' order: of two that fit equally well the first is taken."""
    if source.get("image_aspect_ratio") != "anyres":
        return None
    if source.get("mm_patch_merge_type", "spatial_unpad") != "spatial_unpad":
        raise BadInputError(
            f"config.json has mm_patch_merge_type = {source['mm_patch_merge_type']!r}; built: 'spatial_unpad'"
        )
    return tuple((height, width) for width, height in pinpoints_of(source.get("image_grid_pinpoints")))


def tower_folder(name: str) -> Path:
    """The folder of the vision tower, by path or hub name."""
    return resolve_model_folder(name)


def tower_config(name: str) -> VisionConfig:
    """Sizes of the tower with this path or hub name. Raises BadInputError."""
    if name in KNOWN_TOWERS:
        return vision_config(KNOWN_TOWERS[name])
    source = read_config(tower_folder(name))
    return vision_config(source.get("vision_config", source))
