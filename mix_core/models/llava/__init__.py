"""LLaVA-1.5 and LLaVA-1.6 (LLaVA-NeXT). Importing this package imports no paddle."""

from __future__ import annotations

from mix_core.models.common.tensor_plan import decoder_plan
from mix_core.models.llava.names import published_name, stored_name
from mix_core.models.llava.outline import SIZES
from mix_core.models.registry import Later, family_of_package

FAMILY = family_of_package(
    __name__,
    model="Llava",
    model_types=("llava", "llava_next", "llava_llama", "llava_mistral"),
    init_weights=Later(f"{__name__}.weights", "init_weights"),
    published_name=published_name,
    stored_name=stored_name,
    tensor_plan=decoder_plan(),
    sizes=SIZES,
)
