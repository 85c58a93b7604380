"""Small Qwen2-VL folders in the published layout, and the digits recipe's folder with a Qwen2-VL in it."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from mix_core.recipes import FOLDER
from tests.builders import checkpoints

DIGITS_TOWER: dict[str, Any] = {
    "depth": 2,
    "embed_dim": 48,
    "mlp_ratio": 2,
    "num_heads": 4,
    "patch_size": 6,
    "spatial_patch_size": 6,
}
"""The recipe's pictures are whole numbers of 12-pixel cells: patch 6, merge 2."""


def flat_config(ids: dict[str, int], tokens: int, *, vision: Any = None, **rest: Any) -> dict[str, Any]:
    """config.json with the keys that Qwen publishes; arguments are those of `checkpoints.flat_config`."""
    return with_tower(checkpoints.flat_config(ids, tokens, **rest), **(vision or {}))


def with_tower(config: dict[str, Any], **vision: Any) -> dict[str, Any]:
    """A Qwen2.5-VL's config.json made that of a Qwen2-VL: by default 3 blocks, D 32, 2 heads of 16."""
    return config | {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "vision_config": {
            "depth": 3,
            "embed_dim": 32,
            "mlp_ratio": 4,
            "num_heads": 2,
            "in_chans": 3,
            "hidden_size": config["hidden_size"],
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
            **vision,
        },
    }


write_checkpoint = partial(checkpoints.write_checkpoint, config_of=flat_config)
"""`checkpoints.write_checkpoint` for Qwen2-VL."""


def write_digits_folder(folder: Path) -> Path:
    """The digits recipe's model folder with a small Qwen2-VL of two layers in place of its model."""
    shutil.copytree(FOLDER / "digits" / "model", folder)
    for name, change in (("config.json", _smaller), ("preprocessor_config.json", _for_its_processor)):
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps(change(content), indent=2) + "\n", encoding="utf-8")
    return folder


def _smaller(config: dict[str, Any]) -> dict[str, Any]:
    return with_tower(config | {"num_hidden_layers": 2, "intermediate_size": 192}, **DIGITS_TOWER)


def _for_its_processor(config: dict[str, Any]) -> dict[str, Any]:
    return config | {"processor_class": "Qwen2VLProcessor"}
