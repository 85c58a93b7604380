"""LLaVA's config.json in its published forms, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mix_core.errors import BadInputError
from mix_core.models.llava.config import config_from_dict, config_to_dict
from tests.builders.llava import llava_config

PUBLISHED_15 = {
    "architectures": ["LlavaForConditionalGeneration"],
    "ignore_index": -100,
    "image_token_index": 32000,
    "model_type": "llava",
    "pad_token_id": 32001,
    "projector_hidden_act": "gelu",
    "text_config": {
        "_name_or_path": "lmsys/vicuna-7b-v1.5",
        "max_position_embeddings": 4096,
        "model_type": "llama",
        "rms_norm_eps": 1e-05,
        "torch_dtype": "float16",
        "vocab_size": 32064,
    },
    "vision_config": {
        "hidden_size": 1024,
        "image_size": 336,
        "intermediate_size": 4096,
        "model_type": "clip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
        "projection_dim": 768,
        "vocab_size": 32000,
    },
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
}
MISTRAL = {
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "model_type": "mistral",
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "vocab_size": 32064,
}
AUTHORS_16 = {
    "architectures": ["LlavaMistralForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "image_aspect_ratio": "anyres",
    "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "mm_hidden_size": 1024,
    "mm_patch_merge_type": "spatial_unpad",
    "mm_projector_type": "mlp2x_gelu",
    "mm_resampler_type": None,
    "mm_use_im_start_end": False,
    "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2,
    "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    "model_type": "llava_mistral",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "vocab_size": 32000,
}


def test_a_published_file_leaves_the_decoder_to_the_defaults() -> None:
    config = config_from_dict(PUBLISHED_15)
    text, vision = config.text, config.vision
    assert (text.hidden_size, text.intermediate_size, text.num_hidden_layers) == (4096, 11008, 32)
    assert (text.num_attention_heads, text.num_key_value_heads, text.head_dim) == (32, 32, 128)
    assert (text.rope_theta, text.sliding_window) == (10000.0, None)
    assert (vision.hidden_act, vision.layer_norm_eps, vision.head_dim) == ("quick_gelu", 1e-5, 64)
    assert (config.tower_layers, config.tile_rows, config.anyres) == (23, 576, False)
    assert not config.tie_word_embeddings and config.image_token_id == 32000


def test_what_is_written_reads_the_same() -> None:
    for source in (PUBLISHED_15, PUBLISHED_15 | {"text_config": MISTRAL, "model_type": "llava_next"}):
        config = config_from_dict(source)
        written = config_to_dict(config, "bfloat16")
        assert config_from_dict(written) == config
        assert written["text_config"]["num_hidden_layers"] == 32
        assert written["vision_config"]["hidden_act"] == "quick_gelu"


def test_the_authors_file_gives_llava_hf_s_configuration() -> None:
    config = config_from_dict(AUTHORS_16)
    theirs = config_from_dict(
        PUBLISHED_15 | {"model_type": "llava_next", "text_config": MISTRAL, "pad_token_id": 32001}
    )
    # (width, height) there: the first of two that fit equally well is the upright one
    swapped = ((672, 336), (336, 672), (672, 672), (336, 1008), (1008, 336))
    assert config == replace(theirs, pinpoints=swapped)


def test_a_square_authors_file_is_llava_1_5() -> None:
    source = AUTHORS_16 | {"model_type": "llava", "image_aspect_ratio": "pad"}
    config = config_from_dict(source)
    assert (config.anyres, config.text.model_type, config.text.vocab_size) == (False, "llama", 32064)


@pytest.mark.parametrize(
    "change,says",
    [
        ({"mm_projector_type": "linear"}, "mm_projector_type = 'linear'; built: 'mlp2x_gelu'"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end"),
        ({"mm_resampler_type": "spatial_pool"}, "mm_resampler_type"),
        ({"mm_patch_merge_type": "flat"}, "mm_patch_merge_type = 'flat'"),
        ({"image_grid_pinpoints": "(1x1),...,(6x6)"}, "image_grid_pinpoints"),
        ({"mm_vision_select_layer": -30}, "vision_feature_layer = -30"),
        ({"vocab_size": None}, "lacks vocab_size"),
    ],
)
def test_what_is_not_built_of_the_authors_is_refused(change, says) -> None:
    with pytest.raises(BadInputError) as caught:
        config_from_dict(AUTHORS_16 | change)
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "part,change,says",
    [
        ("text_config", {"model_type": "qwen2"}, "model_type = 'qwen2'; built are llama, mistral"),
        ("text_config", {"attention_bias": True}, "attention_bias = true"),
        ("text_config", {"rope_scaling": {"type": "linear", "factor": 2}}, "rope type 'linear'"),
        ("text_config", {"num_key_value_heads": 5}, "must be a multiple of 5"),
        ("text_config", {"hidden_size": "64"}, "hidden_size = '64', expected int"),
        ("vision_config", {"model_type": "siglip_vision_model"}, "built is clip_vision_model"),
        ("vision_config", {"patch_size": 13}, "must be a multiple of 13"),
        (None, {"vision_feature_layer": [-2, -5]}, "vision_feature_layer = [-2, -5], expected int"),
        (None, {"vision_feature_select_strategy": "cls"}, "expected 'default' or 'full'"),
        (None, {"projector_hidden_act": "relu"}, "expected 'gelu'"),
        (None, {"text_config": None}, "lacks text_config"),
        (None, {"image_grid_pinpoints": [[28, 30]]}, "image_grid_pinpoints side 30"),
        (None, {"vision_feature_select_strategy": "full"}, "a class token has no place"),
    ],
)
def test_what_is_not_built_is_refused(part, change, says) -> None:
    config = llava_config(anyres=True, image_token=300, tokens=320)
    (config[part] if part else config).update(change)
    with pytest.raises(BadInputError) as caught:
        config_from_dict(config)
    assert says in str(caught.value) and "\n" not in str(caught.value)
