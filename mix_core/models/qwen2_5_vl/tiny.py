"""A small Qwen2.5-VL and a batch for it, to try a device with: no files, no tokenizer, no pictures.

Heads are as wide as the published ones (128 in the decoder, 80 in the tower), everything else is small.
Shapes: B batch, S sequence.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mix_core.models.common.tiny import labelled
from mix_core.models.registry import TinyModel

IMAGE, VIDEO, START, END, PAD = 300, 301, 302, 303, 304
GRIDS = ((1, 8, 12), (1, 4, 6))
"""Pictures in patches: the first has six windows, the second is cut at their edges."""

VISION: dict[str, Any] = {
    "depth": 2,
    "hidden_act": "silu",
    "hidden_size": 160,
    "in_chans": 3,
    "intermediate_size": 212,
    "num_heads": 2,
    "out_hidden_size": 256,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "tokens_per_second": 2,
    "window_size": 56,
    "fullatt_block_indexes": [1],
}


def tiny() -> TinyModel:
    config = decoder_config() | {"model_type": "qwen2_5_vl", "vision_config": VISION}
    return TinyModel(config, two_pictures())


def two_pictures() -> dict[str, np.ndarray]:
    """Two rows of text with a picture each, of different length and padded on the right."""
    rng = np.random.default_rng(0)
    merged = 2 * 2
    rows = [
        [*rng.integers(0, 256, 5), START, *[IMAGE] * (t * h * w // merged), END, *rng.integers(0, 256, 10)]
        for t, h, w in GRIDS
    ]
    patches = sum(t * h * w for t, h, w in GRIDS)
    return {
        **labelled(rows, PAD),
        "pixel_values": rng.standard_normal((patches, 3 * 2 * 14 * 14), dtype=np.float32),
        "image_grid_thw": np.array(GRIDS, np.int64),
    }


def decoder_config() -> dict[str, Any]:
    """config.json as published, with small sizes; without the tower and its model_type."""
    return {
        "attention_dropout": 0.0,
        "image_token_id": IMAGE,
        "video_token_id": VIDEO,
        "vision_start_token_id": START,
        "vision_end_token_id": END,
        "hidden_act": "silu",
        "hidden_size": 256,
        "initializer_range": 0.02,
        "intermediate_size": 320,
        "max_position_embeddings": 4096,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "num_key_value_heads": 1,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "vocab_size": 320,
    }
