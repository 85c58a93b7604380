"""A small LLaVA-1.6 and a batch for it, to try a device with: no files, no tokenizer, no pictures.

Heads are as wide as the published ones (128 in the decoder, 64 in the tower), everything else is small.
Shapes: B batch, S sequence.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mix_core.models.common.tiny import labelled
from mix_core.models.llava.geometry import rows_of, tile_count
from mix_core.models.registry import TinyModel

IMAGE, PAD = 300, 301
TILE, PATCH = 42, 14
PINPOINTS = ((42, 84), (84, 42))
SIZES = ((60, 160), (50, 40))
"""Pictures, height and width in pixels: one loses rows of patches to its bars, the other columns."""


def tiny() -> TinyModel:
    """Two rows of text with a picture each, of different length and padded on the right."""
    rng = np.random.default_rng(0)
    rows = [
        [
            *rng.integers(0, 256, 5),
            *[IMAGE] * len(rows_of(size, PINPOINTS, TILE, TILE // PATCH)),
            *rng.integers(0, 256, 10),
        ]
        for size in SIZES
    ]
    tiles = sum(tile_count(size, PINPOINTS, TILE) for size in SIZES)
    return TinyModel(
        _config(),
        {
            **labelled(rows, PAD),
            "pixel_values": rng.standard_normal((tiles, 3, TILE, TILE), dtype=np.float32),
            "image_sizes": np.array(SIZES, np.int64),
        },
    )


def _config() -> dict[str, Any]:
    """config.json as llava-hf has it, with small sizes."""
    return {
        "model_type": "llava_next",
        "image_token_index": IMAGE,
        "image_grid_pinpoints": [list(size) for size in PINPOINTS],
        "projector_hidden_act": "gelu",
        "tie_word_embeddings": False,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "text_config": {
            "model_type": "mistral",
            "hidden_size": 256,
            "intermediate_size": 320,
            "max_position_embeddings": 4096,
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
            "num_key_value_heads": 1,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1000000.0,
            "sliding_window": None,
            "vocab_size": 320,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": 128,
            "image_size": TILE,
            "intermediate_size": 192,
            "num_attention_heads": 2,
            "num_hidden_layers": 3,
            "patch_size": PATCH,
        },
    }
