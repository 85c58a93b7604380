"""LLaVA in figures, and the published sizes (llava-hf's config.json on the hub)."""

from __future__ import annotations

from typing import Any

from mix_core.models.llava.config import LlavaConfig
from mix_core.models.outline import LinearMap, Outline, PublishedSize, decoder_stack, tower_stack

_TOWER = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "image_size": 336,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "patch_size": 14,
}
_MISTRAL = {
    "model_type": "mistral",
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "sliding_window": None,
    "vocab_size": 32064,
}
_VICUNA = {
    "model_type": "llama",
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "vocab_size": 32064,
}


def _published(name: str, model_type: str, text: dict[str, Any]) -> PublishedSize:
    config = {
        "model_type": model_type,
        "image_token_index": 32000,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "tie_word_embeddings": False,
        "text_config": text,
        "vision_config": _TOWER,
    }
    return PublishedSize(name, config)


SIZES = (
    _published("llava-1.5-7b", "llava", _VICUNA),
    _published("llava-1.6-vicuna-7b", "llava_next", _VICUNA),
    _published("llava-1.6-mistral-7b", "llava_next", _MISTRAL),
)


def outline(config: LlavaConfig) -> Outline:
    text, vision = config.text, config.vision
    patches = vision.grid**2
    bias = config.projector_bias
    tower = tower_stack(
        layers=config.tower_layers,
        width=vision.hidden_size,
        heads=vision.num_attention_heads,
        head_dim=vision.head_dim,
        inner=vision.intermediate_size,
        joined_qkv=False,
    )
    decoder = decoder_stack(text, qkv_bias=False)
    return Outline(
        decoder=decoder,
        tower=tower,
        vocabulary=text.vocab_size,
        tied=config.tie_word_embeddings,
        maps=(
            LinearMap(inputs=vision.patch_width, outputs=tower.width, bias=False, rows=patches, part="tower"),
            LinearMap(
                inputs=tower.width, outputs=text.hidden_size, bias=bias, rows=patches, part="projector"
            ),
            LinearMap(
                inputs=text.hidden_size, outputs=text.hidden_size, bias=bias, rows=patches, part="projector"
            ),
        ),
        loose={
            # class token, positions with its own, norm before the blocks
            "tower": (patches + 4) * tower.width,
            "projector": text.hidden_size * config.anyres,  # image_newline
            "decoder": text.hidden_size,
        },
        tile_patches=patches + 1,
        tile_tokens=config.tile_rows,
    )
