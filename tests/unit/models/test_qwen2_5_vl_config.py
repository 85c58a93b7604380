"""config.json of Qwen2.5-VL: both forms, nothing assumed, sizes that do not fit refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from mix_core.errors import BadInputError
from mix_core.models.qwen2_5_vl import FAMILY
from mix_core.models.qwen2_5_vl.config import config_from_dict, config_to_dict
from tests.builders.checkpoints import flat_config

IDS = {f"<|{name}|>": i for i, name in enumerate(["endoftext", "im_end", "vision_start", "vision_end"])}
IDS |= {"<|vision_pad|>": 4, "<|image_pad|>": 5, "<|video_pad|>": 6}

NEEDED = [
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "attention_dropout",
    "initializer_range",
    "hidden_act",
    "tie_word_embeddings",
    "image_token_id",
    "video_token_id",
    "vision_start_token_id",
    "vision_end_token_id",
    "vision_config",
]
NEEDED_VISION = [
    "depth",
    "hidden_size",
    "intermediate_size",
    "num_heads",
    "in_chans",
    "patch_size",
    "temporal_patch_size",
    "spatial_merge_size",
    "window_size",
    "out_hidden_size",
    "fullatt_block_indexes",
    "tokens_per_second",
    "hidden_act",
]


@pytest.fixture
def flat() -> dict:
    return flat_config(IDS, 64)


def test_flat_and_nested_give_the_same(flat) -> None:
    transformers = pytest.importorskip("transformers", reason="its config class writes the nested form")
    nested = transformers.Qwen2_5_VLConfig.from_dict(copy.deepcopy(flat)).to_dict()
    assert "text_config" in nested and "hidden_size" not in nested
    assert config_from_dict(nested) == config_from_dict(flat)


@pytest.mark.parametrize("tied", [True, False])
def test_what_we_write_reads_back_here_and_in_transformers(tied: bool, tmp_path: Path) -> None:
    config = config_from_dict(flat_config(IDS, 64, tie_word_embeddings=tied))
    FAMILY.write_config(config, tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert config_from_dict(written) == config
    transformers = pytest.importorskip("transformers", reason="must read it too")
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    assert config_from_dict(theirs.to_dict()) == config
    assert theirs.tie_word_embeddings is tied


@pytest.mark.parametrize("key", NEEDED)
def test_a_missing_key_is_named(flat, key: str) -> None:
    del flat[key]
    with pytest.raises(BadInputError, match=key):
        config_from_dict(flat)


@pytest.mark.parametrize("key", NEEDED_VISION)
def test_a_missing_key_of_the_tower_is_named(flat, key: str) -> None:
    del flat["vision_config"][key]
    with pytest.raises(BadInputError, match=f"lacks vision_config.{key.replace('in_chans', 'in_channels')}"):
        config_from_dict(flat)


@pytest.mark.parametrize(
    "key,value,message",
    [
        ("hidden_size", "64", "hidden_size = '64', expected int"),
        ("hidden_size", True, "hidden_size = True, expected int"),
        ("rms_norm_eps", "1e-6", "rms_norm_eps = '1e-6', expected float"),
        ("num_attention_heads", 5, "hidden_size = 64, which must be a multiple of 5"),
        ("num_key_value_heads", 3, "num_attention_heads = 4, which must be a multiple of 3"),
        ("use_sliding_window", True, "only full attention is built"),
        ("hidden_act", "gelu", "hidden_act = 'gelu', expected 'silu'"),
        ("rope_scaling", {"type": "yarn", "mrope_section": [2, 3, 3]}, "rope type 'yarn'"),
        ("rope_scaling", {"type": "mrope", "mrope_section": [2, 2, 2]}, "add up to half the head dim, 8"),
        ("rope_scaling", {"type": "mrope"}, "lacks rope_scaling.mrope_section"),
    ],
)
def test_values_that_cannot_be_used(flat, key: str, value, message: str) -> None:
    flat[key] = value
    with pytest.raises(BadInputError, match=message):
        config_from_dict(flat)


@pytest.mark.parametrize(
    "key,value,message",
    [
        ("out_hidden_size", 32, "out_hidden_size = 32, but the decoder's hidden_size is 64"),
        ("num_heads", 16, "the vision head dim is 2"),
        ("window_size", 14, "is less than one cell"),
        ("hidden_act", "quick_gelu", "vision_config.hidden_act = 'quick_gelu'"),
        ("spatial_merge_size", 0, "spatial_merge_size = 0"),
    ],
)
def test_values_of_the_tower_that_cannot_be_used(flat, key: str, value, message: str) -> None:
    flat["vision_config"][key] = value
    with pytest.raises(BadInputError, match=message):
        config_from_dict(flat)


def test_an_integer_serves_where_a_number_is_wanted(flat) -> None:
    flat["rope_theta"], flat["attention_dropout"] = 1000000, 0
    assert config_from_dict(flat).text.rope_theta == 1e6


def test_fractional_tokens_per_second_survive(flat) -> None:
    flat["vision_config"]["tokens_per_second"] = 2.5
    assert config_to_dict(config_from_dict(flat), "float32")["vision_config"]["tokens_per_second"] == 2.5
