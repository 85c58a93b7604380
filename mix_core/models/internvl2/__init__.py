"""InternVL2. Importing this package imports no paddle."""

from __future__ import annotations

from mix_core.models.common.tensor_plan import decoder_plan
from mix_core.models.internvl2.names import part_rows, published_name
from mix_core.models.internvl2.outline import SIZES
from mix_core.models.registry import Later, family_of_package

FAMILY = family_of_package(
    __name__,
    model="build",
    model_types=("internvl_chat",),
    published_name=published_name,
    part_rows=part_rows,
    configured=Later(f"{__name__}.options", "configured"),
    tensor_plan={
        **decoder_plan("language_model.model", "language_model.lm_head"),
        **decoder_plan("language_model.decoder", "language_model.output"),
    },
    sizes=SIZES,
)
