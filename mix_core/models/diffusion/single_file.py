"""One safetensors file that holds a whole SD 1.5 or SDXL under its authors' names: read by part, and written.

Such a file has no configuration: the family is told by the width of the text that the U-Net attends to.
Importing this imports no paddle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mix_core.errors import BadInputError, WeightsError
from mix_core.models.common.tensor_files import StoredTensor, read_header
from mix_core.models.diffusion.network import network
from mix_core.models.diffusion.original_names import UNET_PREFIX, VAE_PREFIX, unet_names, vae_names
from mix_core.models.diffusion.published import SD15_UNET, SD15_VAE, SDXL_UNET, SDXL_VAE

_TEXT_WIDTHS = {768: "sd15", 2048: "sdxl"}
_CONFIGS = {
    "UNet2DConditionModel": {"sd15": SD15_UNET, "sdxl": SDXL_UNET},
    "AutoencoderKL": {"sd15": SD15_VAE, "sdxl": SDXL_VAE},
}
_PREFIXES = {"UNet2DConditionModel": UNET_PREFIX, "AutoencoderKL": VAE_PREFIX}
_NO_WEIGHTS_OF_THE_NETWORK = ("loss.",)
"""What the authors' training left among the autoencoder's weights."""


def single_file_family(stored: Mapping[str, StoredTensor], path: Path) -> str:
    """`sd15` or `sdxl`. Raises BadInputError."""
    widths = {
        tensor.shape[1]
        for name, tensor in stored.items()
        if name.startswith(UNET_PREFIX) and name.endswith("attn2.to_k.weight")
    }
    if len(widths) != 1 or not widths <= set(_TEXT_WIDTHS):
        raise BadInputError(
            f"{path} attends to text of width {', '.join(map(str, sorted(widths))) or 'none'}; expected one "
            "file with SD 1.5 (768) or SDXL base (2048) under the original names"
        )
    return _TEXT_WIDTHS[widths.pop()]


def load_single_file(path: Path, class_name: str, *, config: dict[str, Any] | None = None) -> Any:
    """Build one network of the file and fill it; the model is in evaluation mode, float32.

    Args:
        path: a safetensors file; for the autoencoder also one that holds it alone, then with `config`.
        class_name: `UNet2DConditionModel` or `AutoencoderKL`.
        config: parsed config.json, where the file is of no published size.

    Raises BadInputError and WeightsError.
    """
    from mix_core.models.common.weights import fill_slots
    from mix_core.models.diffusion.weights import by_published_name

    path = Path(path)
    if class_name not in _PREFIXES:
        raise BadInputError(f"single files are read for {' and '.join(_PREFIXES)}, not for {class_name}")
    if not path.is_file():
        raise BadInputError(f"{path} is not there; expected a safetensors file")
    stored = read_header(path)
    own = _without_prefix(stored, _PREFIXES[class_name], path)
    kind = network(class_name)
    source = config or _published_config(class_name, stored, path)
    made = kind.config_from_dict(source)
    model = kind.build(made)
    slots = kind.slots(model)
    original = _names(class_name, made)
    published = {original(name): name for name in slots}
    found = {name: tensor for name, tensor in own.items() if not name.startswith(_NO_WEIGHTS_OF_THE_NETWORK)}
    rename = _lookup(published)
    fill_slots(slots, by_published_name(found, rename, slots, path), path)
    model.eval()
    return model


def save_single_file(layers: Mapping[str, Any], path: Path) -> None:
    """Write a whole model, in the dtypes of its parameters; it holds neither configurations nor tokenizers.

    layers: `unet`, `vae`, `text_encoder` and, for SDXL, `text_encoder_2`. Raises BadInputError.
    """
    from mix_core.models.clip_text.original import original_tensors
    from mix_core.models.common.tensor_files import Outgoing, write_file
    from mix_core.models.common.weights import STORED_AS

    wanted = ["unet", "vae", "text_encoder"]
    lacking = [name for name in wanted if name not in layers]
    if lacking or set(layers) - {*wanted, "text_encoder_2"}:
        raise BadInputError(f"a single file holds {', '.join(wanted)}; got {', '.join(layers)}")
    outgoing: list[Outgoing] = []
    for part, prefix in (("unet", UNET_PREFIX), ("vae", VAE_PREFIX)):
        kind = layers[part].network
        original = _names(kind.class_name, layers[part].config)
        for name, slot in kind.slots(layers[part]).items():
            # in the originals the autoencoder's attention is made of convolutions
            shape = (*slot.shape, 1, 1) if _is_map_of_vae(part, name, slot.shape) else slot.shape
            values = partial(_shaped, slot, shape)
            outgoing.append(Outgoing(prefix + original(name), STORED_AS[slot.dtype], shape, values))
    second = layers.get("text_encoder_2")
    outgoing += original_tensors(layers["text_encoder"], sdxl=second is not None)
    outgoing += [] if second is None else original_tensors(second, second=True)
    write_file(Path(path), outgoing)


def _is_map_of_vae(part: str, name: str, shape: tuple[int, ...]) -> bool:
    return part == "vae" and ".attentions." in name and len(shape) == 2


def _shaped(slot: Any, shape: tuple[int, ...]) -> np.ndarray:
    values: np.ndarray = slot.values().reshape(shape)
    return values


def config_of_single_file(path: Path, class_name: str) -> dict[str, Any]:
    """config.json of a network in a file of published size. Raises BadInputError and WeightsError."""
    return _published_config(class_name, read_header(path), path)


def _published_config(class_name: str, stored: Mapping[str, StoredTensor], path: Path) -> dict[str, Any]:
    own = _without_prefix(stored, _PREFIXES[class_name], path)
    return _with_inputs(_CONFIGS[class_name][single_file_family(stored, path)], own)


def _without_prefix(stored: Mapping[str, StoredTensor], prefix: str, path: Path) -> dict[str, StoredTensor]:
    own = {name.removeprefix(prefix): one for name, one in stored.items() if name.startswith(prefix)}
    if own:
        return own
    if prefix == VAE_PREFIX and "decoder.conv_in.weight" in stored:
        return dict(stored)
    raise WeightsError(f"{path} holds no weight whose name begins with {prefix}")


def _with_inputs(config: dict[str, Any], own: Mapping[str, StoredTensor]) -> dict[str, Any]:
    """The published configuration with as many input channels as the file has: inpainting has 9."""
    first = own.get("input_blocks.0.0.weight")  # the autoencoder has none
    return config if first is None else {**config, "in_channels": first.shape[1]}


def _names(class_name: str, config: Any) -> Callable[[str], str]:
    if class_name == "AutoencoderKL":
        return vae_names(len(config.block_out_channels))
    return original_unet_names(config)


def original_unet_names(config: Any) -> Callable[[str], str]:
    """Published name of a parameter -> the original one, for a U-Net of this configuration."""
    attends = tuple(kind.startswith("CrossAttn") for kind in config.up_block_types)
    return unet_names(config.layers_per_block, attends)


def _lookup(published: Mapping[str, str]) -> Callable[[str], str]:
    return lambda name: published.get(name, name)
