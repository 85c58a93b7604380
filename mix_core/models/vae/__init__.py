"""The autoencoder of latent diffusion (AutoencoderKL). Importing this package imports no paddle."""

from __future__ import annotations

from typing import Any

from mix_core.models.diffusion.network import Network
from mix_core.models.vae.config import CLASS_NAME, config_from_dict, config_to_dict


def _build(config: Any) -> Any:
    from mix_core.models.vae.model import AutoencoderKL

    return AutoencoderKL(config)


def _slots(model: Any) -> dict[str, Any]:
    from mix_core.models.common.weights import slots_of

    return dict(slots_of(model))


_OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def _rename(name: str) -> str:
    """Files of 2022 name the maps of attention otherwise."""
    path, module, kind = name.rpartition(".")[0].rpartition(".")[0], *name.split(".")[-2:]
    return f"{path}.{_OLD[module]}.{kind}" if module in _OLD and ".attentions." in name else name


NETWORK = Network(
    class_name=CLASS_NAME,
    config_from_dict=config_from_dict,
    config_to_dict=config_to_dict,
    build=_build,
    slots=_slots,
    rename=_rename,
)
