"""Qwen2.5-VL and Qwen2-VL in figures, and the published sizes (their config.json on the hub)."""

from __future__ import annotations

from typing import Any

from mix_core.models.outline import (
    LinearMap,
    Outline,
    PublishedSize,
    Stack,
    decoder_stack,
    text_sizes,
    tower_stack,
)
from mix_core.models.qwen2_5_vl.text_config import QwenVLConfig

TILE_PIXELS = 448
"""Side of the picture that a tile stands for; the tower takes pictures of any size."""
_TOKENS = {
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
}
_SHARED = {
    **_TOKENS,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
}


def published(
    model_type: str, size: str, vision: dict[str, Any], most_positions: int, text: dict[str, int], tied: bool
) -> PublishedSize:
    """One size of either family; `vision` is its tower."""
    config = {
        **_SHARED,
        **text,
        "model_type": model_type,
        "max_position_embeddings": most_positions,
        "tie_word_embeddings": tied,
        "vision_config": vision,
    }
    return PublishedSize(f"{model_type}-{size}", config)


def _vision(width: int) -> dict[str, Any]:
    return {
        "depth": 32,
        "hidden_act": "silu",
        "hidden_size": 1280,
        "in_chans": 3,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": width,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "tokens_per_second": 2,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
    }


SIZES = (
    published("qwen2_5_vl", "3b", _vision(2048), 128000, text_sizes(2048, 11008, 36, 16, 2, 151936), True),
    published("qwen2_5_vl", "7b", _vision(3584), 128000, text_sizes(3584, 18944, 28, 28, 4, 152064), False),
)


def outline(config: QwenVLConfig) -> Outline:
    vision = config.vision
    width, cell = vision.hidden_size, vision.spatial_merge_size**2
    tower = tower_stack(
        layers=vision.depth,
        width=width,
        heads=vision.num_heads,
        head_dim=vision.head_dim,
        inner=vision.intermediate_size,
        gated=True,
        rotary=True,
        rms=True,
        window=vision.window_cells**2 * cell,
        full_layers=len(vision.fullatt_block_indexes),
    )
    return with_tower(config, tower, norm_vectors=1)


def with_tower(config: QwenVLConfig, tower: Stack, norm_vectors: int) -> Outline:
    """The decoder, patch embedding and merger that both families share; vectors of the merger's norm."""
    text, vision = config.text, config.vision
    patches = (TILE_PIXELS // vision.patch_size) ** 2
    cell = vision.spatial_merge_size**2
    merged = tower.width * cell
    tokens = patches // cell
    decoder = decoder_stack(text, qkv_bias=True)
    return Outline(
        decoder=decoder,
        tower=tower,
        vocabulary=text.vocab_size,
        tied=config.tie_word_embeddings,
        maps=(
            LinearMap(inputs=vision.patch_width, outputs=tower.width, bias=False, rows=patches, part="tower"),
            LinearMap(inputs=merged, outputs=merged, bias=True, rows=tokens, part="projector"),
            LinearMap(inputs=merged, outputs=text.hidden_size, bias=True, rows=tokens, part="projector"),
        ),
        loose={"projector": norm_vectors * tower.width, "decoder": text.hidden_size},
        tile_patches=patches,
        tile_tokens=tokens,
    )
