"""Qwen2-VL. Importing this package imports no paddle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from mix_core.models.qwen2_5_vl import FAMILY as QWEN2_5_VL
from mix_core.models.qwen2_vl.config import config_from_dict, config_to_dict
from mix_core.models.qwen2_vl.outline import SIZES, outline
from mix_core.models.qwen2_vl.tiny import tiny


def _build(config: Any) -> Any:
    from mix_core.models.qwen2_vl.model import Qwen2VL

    return Qwen2VL(config)


def _write_config(config: Any, folder: Path, dtype: str = "float32") -> None:
    text = json.dumps(config_to_dict(config, dtype), indent=2)
    (Path(folder) / "config.json").write_text(text + "\n", encoding="utf-8")


def _load_processor(folder: Path) -> Any:
    from mix_core.models.qwen2_vl.processor import load_processor

    return load_processor(folder)


# names and layout of the weights are Qwen2.5-VL's: `mix_core.models.qwen2_5_vl.weights`
FAMILY = replace(
    QWEN2_5_VL,
    name="qwen2_vl",
    model_types=("qwen2_vl",),
    config_from_dict=config_from_dict,
    build=_build,
    write_config=_write_config,
    load_processor=_load_processor,
    tiny=tiny,
    outline=outline,
    sizes=SIZES,
)
