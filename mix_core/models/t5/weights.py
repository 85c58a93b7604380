"""Folders of T5's encoder: config.json, and model.safetensors or its shards.

A whole T5's folder serves too: what belongs to its decoder is passed over. The embedding stands in files as
`shared.weight`, as `encoder.embed_tokens.weight` or, the same numbers, as both.
"""

from __future__ import annotations

import json
from pathlib import Path

from mix_core.models.common.tensor_files import read_folder
from mix_core.models.common.weights import STORED_AS, fill_random, load_folder, save_folder, slots_of
from mix_core.models.registry import read_config
from mix_core.models.t5.config import config_from_dict, config_to_dict
from mix_core.models.t5.model import T5Encoder

DEVIATION = 0.05
"""Of random first values."""
_SHARED, _SECOND = "shared.weight", "encoder.embed_tokens.weight"


def load_t5(folder: Path, *, random_init: bool = False, seed: int = 0) -> T5Encoder:
    """The encoder of a folder, in evaluation mode. Raises BadInputError and WeightsError."""
    model = T5Encoder(config_from_dict(read_config(folder)))
    if random_init:
        fill_random(model, seed, DEVIATION)
    else:
        _load(model, Path(folder))
    model.eval()
    return model


def _load(model: T5Encoder, folder: Path) -> None:
    only_second = _SHARED not in read_folder(folder)

    def rename(name: str) -> str:
        return _SHARED if only_second and name == _SECOND else name

    def ignore(name: str) -> bool:
        return name == _SECOND or name.startswith(("decoder.", "lm_head."))

    load_folder(slots_of(model), folder, rename, ignore)


def save_t5(model: T5Encoder, folder: Path, max_shard_bytes: int = 5 << 30) -> None:
    """Write config.json and the weights as transformers reads them."""
    slots = slots_of(model)
    save_folder(slots, folder, max_shard_bytes)
    written = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
    dtype = written[STORED_AS[next(iter(slots.values())).dtype]]
    text = json.dumps(config_to_dict(model.config, dtype), indent=2)
    (Path(folder) / "config.json").write_text(text + "\n", encoding="utf-8")
