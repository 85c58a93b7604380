"""A plain text decoder in the published layout of Llama. Importing this package imports no paddle."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mix_core.errors import BadInputError
from mix_core.models.registry import ModelFamily


@dataclass(frozen=True, kw_only=True)
class PlainConfig:
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    rms_norm_eps: float
    rope_theta: float
    initializer_range: float
    tie_word_embeddings: bool


def config_from_dict(source: dict[str, Any]) -> PlainConfig:
    missing = [key for key in PlainConfig.__annotations__ if key not in source]
    if missing:
        raise BadInputError(f"config.json lacks {missing[0]}; a plain decoder needs it")
    return PlainConfig(**{key: source[key] for key in PlainConfig.__annotations__})


def _build(config: PlainConfig) -> Any:
    from mix_model_plain.model import Plain

    return Plain(config)


def _init_weights(model: Any, seed: int) -> None:
    from mix_core.models.common.weights import fill_random

    fill_random(model, seed, model.config.initializer_range)


def _load_weights(model: Any, folder: Path) -> None:
    from mix_core.models.common.weights import load_folder, slots_of

    load_folder(slots_of(model), folder)


def _save_weights(model: Any, folder: Path, max_shard_bytes: int = 5 << 30) -> None:
    from mix_core.models.common.weights import save_folder, slots_of

    save_folder(slots_of(model), folder, max_shard_bytes)


def _write_config(config: PlainConfig, folder: Path, dtype: str = "float32") -> None:
    source = {"model_type": "plain", "torch_dtype": dtype, **asdict(config)}
    (Path(folder) / "config.json").write_text(json.dumps(source))


def _load_processor(folder: Path) -> Any:
    raise BadInputError("plain has no processor; hand token ids to the model")


FAMILY = ModelFamily(
    name="plain",
    model_types=("plain",),
    config_from_dict=config_from_dict,
    build=_build,
    init_weights=_init_weights,
    load_weights=_load_weights,
    save_weights=_save_weights,
    write_config=_write_config,
    load_processor=_load_processor,
)
