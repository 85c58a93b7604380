"""The transformer of SD3 (SD3Transformer2DModel). Importing this package imports no paddle."""

from __future__ import annotations

from typing import Any

from mix_core.models.diffusion.network import Network
from mix_core.models.mmdit.config import CLASS_NAME, config_from_dict, config_to_dict


def _build(config: Any) -> Any:
    from mix_core.models.mmdit.model import SD3Transformer2DModel

    return SD3Transformer2DModel(config)


def _slots(model: Any) -> dict[str, Any]:
    from mix_core.models.mmdit.weights import slots

    return slots(model)


NETWORK = Network(
    class_name=CLASS_NAME,
    config_from_dict=config_from_dict,
    config_to_dict=config_to_dict,
    build=_build,
    slots=_slots,
)
