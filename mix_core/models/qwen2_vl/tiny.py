"""A small Qwen2-VL and a batch for it, to try a device with: heads as wide as the published ones."""

from __future__ import annotations

from typing import Any

from mix_core.models.qwen2_5_vl.tiny import decoder_config, two_pictures
from mix_core.models.registry import TinyModel

VISION: dict[str, Any] = {
    "depth": 2,
    "embed_dim": 160,
    "hidden_size": 256,
    "in_chans": 3,
    "mlp_ratio": 4,
    "num_heads": 2,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "spatial_patch_size": 14,
    "temporal_patch_size": 2,
}


def tiny() -> TinyModel:
    config = decoder_config() | {"model_type": "qwen2_vl", "vision_config": VISION}
    return TinyModel(config, two_pictures())
