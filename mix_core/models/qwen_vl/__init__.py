"""Qwen-VL and Qwen-VL-Chat. Importing this package imports no paddle."""

from __future__ import annotations

from mix_core.models.common.tensor_plan import decoder_plan
from mix_core.models.qwen_vl.names import published_name
from mix_core.models.qwen_vl.outline import SIZES
from mix_core.models.registry import family_of_package

FAMILY = family_of_package(
    __name__,
    model="QwenVL",
    model_types=("qwen",),
    published_name=published_name,
    tensor_plan=decoder_plan(),
    sizes=SIZES,
)
