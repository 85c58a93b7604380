"""Folders of CLIP's text encoders: config.json, and model.safetensors or its shards."""

from __future__ import annotations

import json
from pathlib import Path

from mix_core.models.clip_text.config import config_from_dict, config_to_dict
from mix_core.models.clip_text.model import ClipTextModel
from mix_core.models.common.weights import STORED_AS, fill_random, load_folder, save_folder, slots_of
from mix_core.models.registry import read_config

WIDTH_OF_DEVIATION = 833
"""Width at which random first values deviate by 0.02, as CLIP's embeddings do; a narrower one has larger."""


def load_clip_text(folder: Path, *, random_init: bool = False, seed: int = 0) -> ClipTextModel:
    """The encoder of a folder, in evaluation mode. Raises BadInputError and WeightsError."""
    model = ClipTextModel(config_from_dict(read_config(folder)))
    if random_init:
        fill_random(model, seed, 0.02 * max(1.0, WIDTH_OF_DEVIATION / model.config.hidden_size) ** 0.5)
    else:
        load_folder(slots_of(model), Path(folder), ignore=_is_computed)
    model.eval()
    return model


def _is_computed(name: str) -> bool:
    """Positions, which older files hold."""
    return name.endswith("embeddings.position_ids")


def save_clip_text(model: ClipTextModel, folder: Path, max_shard_bytes: int = 5 << 30) -> None:
    """Write config.json and the weights as transformers reads them."""
    slots = slots_of(model)
    save_folder(slots, folder, max_shard_bytes)
    written = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
    dtype = written[STORED_AS[next(iter(slots.values())).dtype]]
    text = json.dumps(config_to_dict(model.config, dtype), indent=2)
    (Path(folder) / "config.json").write_text(text + "\n", encoding="utf-8")
