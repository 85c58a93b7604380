"""Text encoders out of and into one safetensors file of a whole SD 1.5 or SDXL under its authors' names.

ViT-L stands there under the published names behind a prefix; bigG under those of OpenCLIP, where queries,
keys and values are one matrix and the projection is stored as (in, out). Such a file holds neither
configurations nor tokenizers.

Shapes: D width, P width of the projection.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from mix_core.errors import WeightsError
from mix_core.models.clip_text.config import PLAIN, PROJECTED, config_from_dict
from mix_core.models.common.tensor_files import Outgoing, StoredTensor, read_header

VIT_L: dict[str, Any] = {
    "architectures": [PLAIN],
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
BIG_G: dict[str, Any] = {
    **VIT_L,
    "architectures": [PROJECTED],
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}
"""config.json of the two, as published with SDXL."""

_PREFIXES = ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer.")
_SECOND_PREFIX = "conditioner.embedders.1.model."
_PROJECTION = "text_projection"
_PARTS = ("q_proj", "k_proj", "v_proj")
_NAMES = {
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    _PROJECTION: "text_projection.weight",
}
_IN_BLOCK = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj"}
_IN_BLOCK |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)[._](weight|bias)")


def load_original(path: Path, *, second: bool = False, config: dict[str, Any] | None = None) -> Any:
    """One text encoder of the file, in evaluation mode.

    second: SDXL's bigG; else ViT-L. config: config.json, where the file is of no published size. Raises
    BadInputError and WeightsError.
    """
    from mix_core.models.clip_text.model import ClipTextModel
    from mix_core.models.common.weights import Slot, slots_of

    path = Path(path)
    model = ClipTextModel(config_from_dict(config or (BIG_G if second else VIT_L)))
    slots = slots_of(model)
    stored = dict(_second(path) if second else _first(path))
    if second:  # stored as Paddle has it
        parameter = slots["text_projection.weight"].parameter
        slots["text_projection.weight"] = Slot(parameter, tuple(parameter.shape), linear=False)
    for name, slot in slots.items():
        if name not in stored:
            raise WeightsError(f"{path} lacks the text encoder's {name}; does the file hold a whole model?")
        if stored[name].shape != slot.shape:
            raise WeightsError(f"{path}: {name} has shape {stored[name].shape}, expected {slot.shape}")
    for name, slot in slots.items():
        slot.fill(stored[name])
    model.eval()
    return model


def _first(path: Path) -> Iterator[tuple[str, StoredTensor]]:
    """ViT-L's tensors under the published names."""
    for name, tensor in read_header(path).items():
        for prefix in _PREFIXES:
            if name.startswith(prefix):
                yield name.removeprefix(prefix), tensor


def _second(path: Path) -> Iterator[tuple[str, StoredTensor]]:
    """bigG's tensors under the published names."""
    for stored, tensor in read_header(path).items():
        if not stored.startswith(_SECOND_PREFIX):
            continue
        name = stored.removeprefix(_SECOND_PREFIX)
        if name in _NAMES:
            yield _NAMES[name], tensor
        elif (block := _BLOCK.fullmatch(name)) is not None:
            layer = f"text_model.encoder.layers.{block[1]}"
            if block[2] == "attn.in_proj":
                for part, rows in zip(_PARTS, _thirds(tensor)):
                    yield f"{layer}.self_attn.{part}.{block[3]}", rows
            elif block[2] in _IN_BLOCK:
                yield f"{layer}.{_IN_BLOCK[block[2]]}.{block[3]}", tensor


def _thirds(tensor: StoredTensor) -> Iterator[StoredTensor]:
    """The three parts of a tensor along its first axis."""
    shape = (tensor.shape[0] // 3, *tensor.shape[1:])
    size_bytes = prod(shape) * {"F64": 8, "F32": 4}.get(tensor.dtype, 2)
    for part in range(3):
        yield replace(tensor, shape=shape, start=tensor.start + part * size_bytes)


def original_tensors(model: Any, *, second: bool = False, sdxl: bool = False) -> Iterator[Outgoing]:
    """A text encoder's tensors as such a file has them; `second`: bigG, under OpenCLIP's names."""
    from mix_core.models.common.weights import STORED_AS, slots_of

    slots = slots_of(model)
    if not second:
        for name, slot in slots.items():
            yield Outgoing(_PREFIXES[sdxl] + name, STORED_AS[slot.dtype], slot.shape, slot.values)
        return
    for name, slot in slots.items():
        dtype, shape = STORED_AS[slot.dtype], slot.shape
        original, values = _original_name(name), slot.values
        if original == _PROJECTION:  # stored as Paddle has it
            shape, values = shape[::-1], slot.parameter.numpy
        elif original.endswith(_JOINED):
            if f".{_PARTS[0]}." not in name:
                continue  # goes with the first
            parts = [slots[name.replace(_PARTS[0], part)] for part in _PARTS]
            shape, values = (3 * shape[0], *shape[1:]), partial(_joined, parts)
        yield Outgoing(_SECOND_PREFIX + original, dtype, shape, values)


_JOINED = ("attn.in_proj_weight", "attn.in_proj_bias")
_OPENCLIP = {published: name for name, published in _NAMES.items()}
_IN_OPENCLIP = {published: name for name, published in _IN_BLOCK.items()}
_LAYER = re.compile(r"text_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")


def _original_name(name: str) -> str:
    """OpenCLIP's name of a published one; queries, keys and values have one name."""
    if name in _OPENCLIP:
        return _OPENCLIP[name]
    found = _LAYER.fullmatch(name)
    if found is None:
        raise WeightsError(f"{name} has no place in a file with OpenCLIP's names")
    layer, module, kind = found.groups()
    inner = f"{_IN_OPENCLIP[module]}.{kind}" if module in _IN_OPENCLIP else f"attn.in_proj_{kind}"
    return f"transformer.resblocks.{layer}.{inner}"


def _joined(parts: list[Any]) -> np.ndarray:
    return np.concatenate([part.values() for part in parts])
