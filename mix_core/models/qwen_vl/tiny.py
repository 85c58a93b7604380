"""A small Qwen-VL and a batch for it, to try a device with: no files, no tokenizer, no pictures.

Heads are as wide as the published ones (128 in decoder and resampler, 104 in the tower), the rest is small.
Shapes: B batch, S sequence.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mix_core.models.common.tiny import labelled
from mix_core.models.registry import TinyModel

START, END, IMAGE_PAD, PAD = 300, 301, 302, 303
SIDE, PATCH = 84, 14
QUERIES = 16
"""Tokens of a picture; its 36 patches are another grid than those and than the table of positions."""


def tiny() -> TinyModel:
    """Two rows of text with a picture each, of different length and padded on the right."""
    config = _config()
    rng = np.random.default_rng(0)
    picture = [START, *[IMAGE_PAD] * QUERIES, END]
    rows = [[*rng.integers(0, 256, 5), *picture, *rng.integers(0, 256, after)] for after in (10, 7)]
    return TinyModel(
        config,
        {
            **labelled(rows, PAD),
            "pixel_values": rng.standard_normal((len(rows), 3, SIDE, SIDE), dtype=np.float32),
        },
    )


def _config() -> dict[str, Any]:
    """config.json as published, with small sizes."""
    return {
        "model_type": "qwen",
        "attn_dropout_prob": 0.0,
        "emb_dropout_prob": 0.0,
        "hidden_size": 256,
        "initializer_range": 0.02,
        "intermediate_size": 640,
        "kv_channels": 128,
        "layer_norm_epsilon": 1e-6,
        "max_position_embeddings": 8192,
        "no_bias": True,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "rotary_emb_base": 10000,
        "rotary_pct": 1.0,
        "scale_attn_weights": True,
        "seq_length": 2048,
        "tie_word_embeddings": False,
        "use_dynamic_ntk": True,
        "use_logn_attn": True,
        "vocab_size": 320,
        "visual": {
            "heads": 2,
            "image_size": SIDE,
            "image_start_id": START,
            "layers": 2,
            "mlp_ratio": 1.5,
            "n_queries": QUERIES,
            "output_dim": 256,
            "patch_size": PATCH,
            "width": 208,
        },
    }
