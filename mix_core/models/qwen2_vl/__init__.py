"""Qwen2-VL. Importing this package imports no paddle."""

from __future__ import annotations

from mix_core.models.common.tensor_plan import decoder_plan
from mix_core.models.qwen2_vl.outline import SIZES
from mix_core.models.registry import Later, family_of_package

WEIGHTS = "mix_core.models.qwen2_5_vl.weights"
"""Names and layout are Qwen2.5-VL's."""
FAMILY = family_of_package(
    __name__,
    model="Qwen2VL",
    model_types=("qwen2_vl",),
    weights=WEIGHTS,
    stored_name=Later(WEIGHTS, "published_name"),
    tensor_plan=decoder_plan(),
    sizes=SIZES,
)
