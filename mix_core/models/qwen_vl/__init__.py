"""Qwen-VL and Qwen-VL-Chat. Importing this package imports no paddle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mix_core.models.qwen_vl.config import config_from_dict, config_to_dict
from mix_core.models.qwen_vl.names import published_name
from mix_core.models.qwen_vl.outline import SIZES, outline
from mix_core.models.qwen_vl.tiny import tiny
from mix_core.models.registry import ModelFamily


def _build(config: Any) -> Any:
    from mix_core.models.qwen_vl.model import QwenVL

    return QwenVL(config)


def _init_weights(model: Any, seed: int) -> None:
    from mix_core.models.common.weights import fill_random

    fill_random(model, seed, model.config.initializer_range)


def _load_weights(model: Any, folder: Path) -> None:
    from mix_core.models.qwen_vl.weights import load_weights

    load_weights(model, folder)


def _save_weights(model: Any, folder: Path, max_shard_bytes: int = 5 << 30) -> None:
    from mix_core.models.qwen_vl.weights import save_weights

    save_weights(model, folder, max_shard_bytes)


def _write_config(config: Any, folder: Path, dtype: str = "float32") -> None:
    text = json.dumps(config_to_dict(config, dtype), indent=2)
    (Path(folder) / "config.json").write_text(text + "\n", encoding="utf-8")


def _load_processor(folder: Path) -> Any:
    from mix_core.models.qwen_vl.processor import load_processor

    return load_processor(folder)


def _slots(model: Any) -> dict[str, Any]:
    from mix_core.models.qwen_vl.weights import slots

    return slots(model)


FAMILY = ModelFamily(
    name="qwen_vl",
    model_types=("qwen",),
    config_from_dict=config_from_dict,
    build=_build,
    init_weights=_init_weights,
    load_weights=_load_weights,
    save_weights=_save_weights,
    write_config=_write_config,
    load_processor=_load_processor,
    published_name=published_name,
    slots=_slots,
    tiny=tiny,
    outline=outline,
    sizes=SIZES,
)
