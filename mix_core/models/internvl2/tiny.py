"""A small InternVL2 and a batch for it, to try a device with: no files, no tokenizer, no pictures.

Heads are as wide as the published ones (128 in the decoder, 64 in the tower), everything else is small.
Shapes: B batch, S sequence.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mix_core.models.common.tiny import labelled
from mix_core.models.registry import TinyModel

CONTEXT, START, END, PAD = 300, 301, 302, 303
SIDE, TOKENS = 56, 4
"""Pixels on a side of a tile, and its tokens: learned positions are for 28 pixels and are resized."""
TILES = (3, 1)
"""Of each row's picture."""


def tiny() -> TinyModel:
    """Two rows of text with a picture each, of different length and padded on the right."""
    rng = np.random.default_rng(0)
    rows = [
        [*rng.integers(0, 256, 5), START, *[CONTEXT] * (TOKENS * tiles), END, *rng.integers(0, 256, 10)]
        for tiles in TILES
    ]
    return TinyModel(
        _config(),
        {
            **labelled(rows, PAD),
            "pixel_values": rng.standard_normal((sum(TILES), 3, SIDE, SIDE), dtype=np.float32),
            "img_context_token_id": np.array([CONTEXT], np.int64),
        },
    )


def _config() -> dict[str, Any]:
    """config.json as published, with small sizes."""
    return {
        "model_type": "internvl_chat",
        "template": "internlm2-chat",
        "downsample_ratio": 0.5,
        "ps_version": "v2",
        "select_layer": -1,
        "force_image_size": SIDE,
        "dynamic_image_size": True,
        "use_thumbnail": True,
        "min_dynamic_patch": 1,
        "max_dynamic_patch": 6,
        "llm_config": {
            "architectures": ["InternLM2ForCausalLM"],
            "bias": False,
            "hidden_act": "silu",
            "hidden_size": 256,
            "initializer_range": 0.02,
            "intermediate_size": 320,
            "max_position_embeddings": 4096,
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
            "num_key_value_heads": 1,
            "rms_norm_eps": 1e-5,
            "rope_scaling": {"type": "dynamic", "factor": 2.0},
            "rope_theta": 1000000.0,
            "tie_word_embeddings": False,
            "vocab_size": 320,
        },
        "vision_config": {
            "attention_dropout": 0.0,
            "drop_path_rate": 0.0,
            "dropout": 0.0,
            "hidden_act": "gelu",
            "hidden_size": 128,
            "image_size": 28,
            "initializer_factor": 1.0,
            "intermediate_size": 192,
            "layer_norm_eps": 1e-6,
            "norm_type": "layer_norm",
            "num_attention_heads": 2,
            "num_channels": 3,
            "num_hidden_layers": 2,
            "patch_size": 14,
            "qk_normalization": False,
            "qkv_bias": True,
        },
    }
