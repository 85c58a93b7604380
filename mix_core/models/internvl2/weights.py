"""Weights of InternVL2 between the published files and the model.

OpenGVLab's names are `vision_model.*`, `language_model.*` and `mlp1.*`. InternLM2 keeps q, k and v in one
matrix, rows "(h gs d)": for each head of keys and values h its query heads, its key and its value, each of d
rows. The model has them as three.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from mix_core.models.common.weights import AnySlot, joined_slots, load_folder, save_folder, slots_of
from mix_core.models.internvl2.model import InternVL2
from mix_core.models.internvl2.names import part_rows, published_name


def slots(model: InternVL2) -> dict[str, AnySlot]:
    """The model's weights by published name, each with its published shape."""
    vision = model.config.vision
    kernel = (vision.hidden_size, vision.num_channels, vision.patch_size, vision.patch_size)
    own = slots_of(model, {"vision_model.embeddings.patch_embedding.weight": kernel})
    return joined_slots(own, published_name, partial(part_rows, model))


def load_weights(model: InternVL2, folder: Path) -> None:
    """Fill the model from the folder's safetensors files. Raises WeightsError."""
    tied = model.config.text.tie_word_embeddings

    def ignore(name: str) -> bool:
        # a tied head repeats the embedding; frequencies are computed
        head = name in ("language_model.lm_head.weight", "language_model.output.weight")
        return (tied and head) or name.endswith("rotary_emb.inv_freq")

    load_folder(slots(model), folder, ignore=ignore)


def save_weights(model: InternVL2, folder: Path, max_shard_bytes: int = 5 << 30) -> None:
    """Write the published layout: one file, or shards of at most `max_shard_bytes` and their index."""
    save_folder(slots(model), folder, max_shard_bytes)
