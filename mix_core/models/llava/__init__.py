"""LLaVA-1.5 and LLaVA-1.6 (LLaVA-NeXT). Importing this package imports no paddle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mix_core.models.llava.config import config_from_dict, config_to_dict
from mix_core.models.llava.names import published_name, stored_name
from mix_core.models.llava.outline import SIZES, outline
from mix_core.models.llava.tiny import tiny
from mix_core.models.registry import ModelFamily


def _build(config: Any) -> Any:
    from mix_core.models.llava.model import Llava

    return Llava(config)


def _init_weights(model: Any, seed: int) -> None:
    from mix_core.models.common.weights import fill_random
    from mix_core.models.llava.weights import fill_vectors

    fill_random(model, seed, model.config.text.initializer_range)
    fill_vectors(model, seed)


def _load_weights(model: Any, folder: Path) -> None:
    from mix_core.models.llava.weights import load_weights

    load_weights(model, folder)


def _save_weights(model: Any, folder: Path, max_shard_bytes: int = 5 << 30) -> None:
    from mix_core.models.llava.weights import save_weights

    save_weights(model, folder, max_shard_bytes)


def _write_config(config: Any, folder: Path, dtype: str = "float32") -> None:
    text = json.dumps(config_to_dict(config, dtype), indent=2)
    (Path(folder) / "config.json").write_text(text + "\n", encoding="utf-8")


def _load_processor(folder: Path) -> Any:
    from mix_core.models.llava.processor import load_processor

    return load_processor(folder)


def _slots(model: Any) -> dict[str, Any]:
    from mix_core.models.llava.weights import slots

    return slots(model)


FAMILY = ModelFamily(
    name="llava",
    model_types=("llava", "llava_next", "llava_llama", "llava_mistral"),
    config_from_dict=config_from_dict,
    build=_build,
    init_weights=_init_weights,
    load_weights=_load_weights,
    save_weights=_save_weights,
    write_config=_write_config,
    load_processor=_load_processor,
    published_name=published_name,
    slots=_slots,
    stored_name=stored_name,
    tiny=tiny,
    outline=outline,
    sizes=SIZES,
)
