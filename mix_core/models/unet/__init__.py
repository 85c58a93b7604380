"""The U-Net of SD 1.5 and SDXL (UNet2DConditionModel). Importing this package imports no paddle."""

from __future__ import annotations

from typing import Any

from mix_core.models.diffusion.network import Network
from mix_core.models.unet.config import CLASS_NAME, config_from_dict, config_to_dict


def _build(config: Any) -> Any:
    from mix_core.models.unet.model import UNet2DConditionModel

    return UNet2DConditionModel(config)


def _slots(model: Any) -> dict[str, Any]:
    from mix_core.models.common.weights import slots_of
    from mix_core.models.diffusion.attention import conv_projections

    return dict(slots_of(model, {} if model.config.use_linear_projection else conv_projections(model)))


NETWORK = Network(
    class_name=CLASS_NAME,
    config_from_dict=config_from_dict,
    config_to_dict=config_to_dict,
    build=_build,
    slots=_slots,
)
