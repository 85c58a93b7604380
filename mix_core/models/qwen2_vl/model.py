"""Qwen2-VL: Qwen2.5-VL's decoder and way of placing pictures, with its own vision tower.

Wang et al., "Qwen2-VL: Enhancing Vision-Language Model's Perception of the World at Any Resolution", 2024.
"""

from __future__ import annotations

from mix_core.models.qwen2_5_vl.model import Qwen2_5_VL
from mix_core.models.qwen2_vl.config import Qwen2VLConfig
from mix_core.models.qwen2_vl.vision import VisionTower


class Qwen2VL(Qwen2_5_VL):
    """Batches are Qwen2.5-VL's; second_per_grid_ts is without effect (`VisionConfig.tokens_per_second`)."""

    def __init__(self, config: Qwen2VLConfig) -> None:
        super().__init__(config, VisionTower)
