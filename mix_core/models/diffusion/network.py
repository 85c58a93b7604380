"""What diffusion networks have alike, and how one is read from its folder. Imports no paddle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from mix_core.errors import BadInputError
from mix_core.models.diffusion.config_file import read_json, write_json

STEM = "diffusion_pytorch_model"
"""How diffusers' files begin."""
SHARD_BYTES = 10 << 30
"""As diffusers' own limit."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """One kind of network, as `ModelFamily` describes a family of language models."""

    class_name: str
    """`_class_name` in config.json."""
    config_from_dict: Callable[[dict[str, Any]], Any]
    """Parsed config.json -> configuration. Raises BadInputError."""
    config_to_dict: Callable[[Any], dict[str, Any]]
    build: Callable[[Any], Any]
    """Configuration -> model with zeros (norms: ones); imports paddle."""
    slots: Callable[[Any], dict[str, Any]]
    """Model -> its parameters by published name, with their published shapes."""
    rename: Callable[[str], str] = str
    """A name in a file -> the published one."""


_HOMES = {"AutoencoderKL": "vae", "UNet2DConditionModel": "unet", "SD3Transformer2DModel": "mmdit"}


def network(class_name: str) -> Network:
    """The network of this `_class_name`. Raises BadInputError."""
    if class_name not in _HOMES:
        raise BadInputError(
            f"no network is called {class_name!r}; expected one of {', '.join(sorted(_HOMES))}"
        )
    found: Network = import_module(f"mix_core.models.{_HOMES[class_name]}").NETWORK
    return found


def load_network(folder: Path, *, variant: str | None = None, seed: int | None = None) -> Any:
    """Build the network of one part's folder, such as MODEL/unet, and fill in its weights.

    `variant`: which set of weights, such as fp16; where it is None and only fp16 is there, that one is read.
    `seed`: draw random weights instead. The model is in evaluation mode, float32. Raises BadInputError and
    WeightsError.
    """
    from mix_core.models.common.weights import fill_slots
    from mix_core.models.diffusion.weights import draw_weights, found_weights

    folder = Path(folder)
    source = read_json(folder)
    kind = network(source["_class_name"])
    model = kind.build(kind.config_from_dict(source))
    if seed is None:
        slots = kind.slots(model)
        fill_slots(slots, found_weights(folder, variant, kind.rename, slots), folder)
    else:
        draw_weights(model, seed)
    model.eval()
    return model


def save_network(
    model: Any, folder: Path, *, variant: str | None = None, max_shard_bytes: int = SHARD_BYTES
) -> None:
    """Write config.json and the weights as diffusers does, in the dtype of the parameters."""
    from mix_core.models.common.tensor_files import FileNames
    from mix_core.models.common.weights import save_folder

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    kind: Network = model.network
    write_json(folder, kind.config_to_dict(model.config))
    save_folder(kind.slots(model), folder, max_shard_bytes, FileNames(STEM, variant))
