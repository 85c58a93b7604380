"""Weights of Qwen2.5-VL, and of Qwen2-VL, between the published files and the model.

Published names are `visual.*`, `model.*` and, untied, `lm_head.weight`; the model's parameters bear them.
transformers 5 names the same weights `model.visual.*` and `model.language_model.*` in memory; files with
those names are read too.
"""

from __future__ import annotations

from pathlib import Path

from mix_core.models.common.weights import Slot, load_folder, save_folder, slots_of
from mix_core.models.qwen2_5_vl.model import Qwen2_5_VL


def slots(model: Qwen2_5_VL) -> dict[str, Slot]:
    """The model's parameters by published name, each with its published shape."""
    vision = model.config.vision
    kernel = (vision.temporal_patch_size, vision.patch_size, vision.patch_size)
    name = "visual.patch_embed.proj.weight"
    width = model.visual.patch_embed.proj.weight.shape[1]
    return slots_of(model, {name: (width, vision.in_channels, *kernel)})


def published_name(name: str) -> str:
    """The published name of a weight that a file may name in transformers' way."""
    for inside, published in (("model.visual.", "visual."), ("model.language_model.", "model.")):
        if name.startswith(inside):
            return published + name.removeprefix(inside)
    return name


def load_weights(model: Qwen2_5_VL, folder: Path) -> None:
    """Fill the model from the folder's safetensors files. Raises WeightsError."""
    tied = model.config.tie_word_embeddings

    def ignore(name: str) -> bool:
        # a tied head repeats the embedding; frequencies are computed
        return (tied and name == "lm_head.weight") or name.endswith("rotary_emb.inv_freq")

    load_folder(slots(model), folder, published_name, ignore)


def save_weights(model: Qwen2_5_VL, folder: Path, max_shard_bytes: int = 5 << 30) -> None:
    """Write the published layout: one file, or shards of at most `max_shard_bytes` and their index."""
    save_folder(slots(model), folder, max_shard_bytes)
