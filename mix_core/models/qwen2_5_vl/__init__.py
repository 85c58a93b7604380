"""Qwen2.5-VL. Importing this package imports no paddle."""

from __future__ import annotations

from mix_core.models.common.tensor_plan import decoder_plan
from mix_core.models.qwen2_5_vl.outline import SIZES
from mix_core.models.registry import Later, family_of_package

FAMILY = family_of_package(
    __name__,
    model="Qwen2_5_VL",
    model_types=("qwen2_5_vl",),
    stored_name=Later(f"{__name__}.weights", "published_name"),
    tensor_plan=decoder_plan(),
    sizes=SIZES,
)
