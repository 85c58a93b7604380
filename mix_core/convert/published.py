"""The published layout: what a model's folder must hold by its config.json, and reading and writing it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mix_core.errors import BadInputError, WeightsError
from mix_core.models.common.tensor_files import INDEX, Outgoing, StoredTensor, read_folder, write_folder
from mix_core.models.registry import get_family, read_config

Shapes = dict[str, tuple[int, ...]]

BESIDE = ("*.json", "*.txt", "*.jinja", "*.model", "*.tiktoken")
"""Files beside the weights that belong to a model: configurations, vocabularies, templates."""
_WEIGHT_INDEXES = (INDEX, "model_state.pdparams.index.json", "pytorch_model.bin.index.json")
_DTYPE_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def read_model_config(folder: Path) -> tuple[str, Any]:
    """(family's name, configuration) of a folder whose weights can be converted. Raises BadInputError."""
    source = read_config(folder)
    family = get_family(source["model_type"])
    if family.name not in _SHAPES:
        raise BadInputError(
            f"{folder} holds a {family.name} model; convertible families: {', '.join(_SHAPES)}"
        )
    return family.name, family.config_from_dict(source)


def published_shapes(family: str, config: Any) -> Shapes:
    """Name and shape of every published weight, in the order in which they are written."""
    return _SHAPES[family](config)


def _qwen2_5_vl(config: Any) -> Shapes:
    """Names: the published Qwen2.5-VL checkpoints; a tied head is not stored."""
    shapes = _qwen2_5_vision(config.vision) | _qwen2_text(config.text)
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.text.vocab_size, config.text.hidden_size)
    return shapes


def _qwen2_5_vision(vision: Any) -> Shapes:
    D, F, patch = vision.hidden_size, vision.intermediate_size, vision.patch_size
    wide = D * vision.spatial_merge_size**2
    shapes: Shapes = {
        "visual.patch_embed.proj.weight": (D, vision.in_channels, vision.temporal_patch_size, patch, patch)
    }
    for i in range(vision.depth):
        at = f"visual.blocks.{i}"
        shapes |= {f"{at}.norm1.weight": (D,), f"{at}.norm2.weight": (D,)}
        shapes |= _linear(f"{at}.attn.qkv", 3 * D, D) | _linear(f"{at}.attn.proj", D, D)
        shapes |= _linear(f"{at}.mlp.gate_proj", F, D) | _linear(f"{at}.mlp.up_proj", F, D)
        shapes |= _linear(f"{at}.mlp.down_proj", D, F)
    shapes["visual.merger.ln_q.weight"] = (D,)
    return (
        shapes
        | _linear("visual.merger.mlp.0", wide, wide)
        | _linear("visual.merger.mlp.2", vision.out_hidden_size, wide)
    )


def _qwen2_text(text: Any) -> Shapes:
    D, F = text.hidden_size, text.intermediate_size
    kv = text.num_key_value_heads * text.head_dim
    shapes: Shapes = {"model.embed_tokens.weight": (text.vocab_size, D)}
    for i in range(text.num_hidden_layers):
        at = f"model.layers.{i}"
        shapes |= {f"{at}.input_layernorm.weight": (D,), f"{at}.post_attention_layernorm.weight": (D,)}
        for name, width in (("q", D), ("k", kv), ("v", kv)):
            shapes |= _linear(f"{at}.self_attn.{name}_proj", width, D)
        shapes[f"{at}.self_attn.o_proj.weight"] = (D, D)
        shapes |= {f"{at}.mlp.{name}_proj.weight": (F, D) for name in ("gate", "up")}
        shapes[f"{at}.mlp.down_proj.weight"] = (D, F)
    return shapes | {"model.norm.weight": (D,)}


def _linear(name: str, outputs: int, inputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


_SHAPES: dict[str, Callable[[Any], Shapes]] = {"qwen2_5_vl": _qwen2_5_vl}


def check_complete(shapes: dict[str, tuple[int, ...]], expected: Shapes, where: Path | str) -> None:
    """Refuse weights that are not those of the configuration. Raises WeightsError with the first name."""
    missing = [name for name in expected if name not in shapes]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise WeightsError(f"{where} lacks the weight {missing[0]}{more}; does config.json fit the weights?")
    for name, shape in shapes.items():
        if name not in expected:
            raise WeightsError(f"{where} holds {name}, which config.json does not ask for")
        if tuple(shape) != expected[name]:
            raise WeightsError(
                f"{name} has shape {tuple(shape)} in {where}, config.json asks for {expected[name]}"
            )


def read_published(folder: Path, expected: Shapes, *, tied: bool) -> list[Outgoing]:
    """The weights of a published folder, checked against the configuration. Raises WeightsError."""
    stored = {_published_name(name): tensor for name, tensor in read_folder(folder).items()}
    if tied:
        stored.pop("lm_head.weight", None)  # some tools repeat the embedding
    check_complete({name: tensor.shape for name, tensor in stored.items()}, expected, folder)
    return [_outgoing(name, stored[name]) for name in expected]


def _published_name(name: str) -> str:
    """transformers 5 writes `model.visual.` and `model.language_model.` in memory's own names."""
    for inside, published in (("model.visual.", "visual."), ("model.language_model.", "model.")):
        if name.startswith(inside):
            return published + name.removeprefix(inside)
    return name


def _outgoing(name: str, stored: StoredTensor) -> Outgoing:
    return Outgoing(name, stored.dtype, stored.shape, stored.read)


def write_published(tensors: Sequence[Outgoing], folder: Path, max_shard_bytes: int = 5 << 30) -> None:
    write_folder(folder, tensors, max_shard_bytes)


def copy_beside(source: Path, target: Path) -> list[str]:
    """Copy what belongs to a model beside its weights; return the names."""
    found = {path.name: path for pattern in BESIDE for path in sorted(source.glob(pattern))}
    names = [name for name in found if name not in _WEIGHT_INDEXES]
    for name in names:
        shutil.copyfile(found[name], target / name)
    return names


def dtype_name(tensors: Sequence[Outgoing]) -> str:
    """The weights' dtype in words: that of most of them."""
    dtypes = [tensor.dtype for tensor in tensors]
    most = max(set(dtypes), key=dtypes.count)
    return _DTYPE_NAMES.get(most, most)
