"""Qwen2.5-VL. Importing this package imports no paddle."""

from __future__ import annotations

from mix_core.models.qwen2_5_vl.outline import SIZES
from mix_core.models.registry import family_of_package, later

FAMILY = family_of_package(
    __name__,
    model="Qwen2_5_VL",
    model_types=("qwen2_5_vl",),
    stored_name=later(f"{__name__}.weights", "published_name"),
    sizes=SIZES,
)
