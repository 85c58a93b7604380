"""Qwen2-VL in figures, and the published sizes (their config.json on the hub)."""

from __future__ import annotations

from mix_core.models.outline import Outline, text_sizes, tower_stack
from mix_core.models.qwen2_5_vl.outline import published, with_tower
from mix_core.models.qwen2_vl.config import Qwen2VLConfig


def _vision(width: int) -> dict[str, int]:
    return {"hidden_size": width, "in_chans": 3}


SIZES = (
    published("qwen2_vl", "2b", _vision(1536), 32768, text_sizes(1536, 8960, 28, 12, 2, 151936), True),
    published("qwen2_vl", "7b", _vision(3584), 32768, text_sizes(3584, 18944, 28, 28, 4, 152064), False),
)


def outline(config: Qwen2VLConfig) -> Outline:
    vision = config.vision
    tower = tower_stack(
        layers=vision.depth,
        width=vision.embed_dim,
        heads=vision.num_heads,
        head_dim=vision.head_dim,
        inner=vision.inner_dim,
        rotary=True,
    )
    return with_tower(config, tower, norm_vectors=2)
