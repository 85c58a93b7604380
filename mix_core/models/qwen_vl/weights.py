"""Weights of Qwen-VL between the published files and the model.

Published names are `transformer.wte`, `transformer.h.N.*`, `transformer.ln_f`, `transformer.visual.*` and
`lm_head`. The decoder is the shared one under its own names; the file's fused c_attn is its q, k and v below
each other.
"""

from __future__ import annotations

import re
from pathlib import Path

from mix_core.models.common.weights import (
    AnySlot,
    Slot,
    joined_slots,
    load_folder,
    save_folder,
    slots_of,
)
from mix_core.models.qwen_vl.model import QwenVL
from mix_core.models.qwen_vl.names import published_name

_COMPUTED = re.compile(r"(.+\.)?(rotary_emb\.inv_freq|attn\.(bias|masked_bias|logn_tensor))")
"""Buffers that some versions of the published code store."""


def slots(model: QwenVL) -> dict[str, AnySlot]:
    """The model's parameters by published name; those that the file joins, in one slot."""
    vision = model.config.vision
    kernel = (vision.width, 3, vision.patch_size, vision.patch_size)
    positions = model.visual.attn_pool.pos_embed
    fixed = {"transformer.visual.attn_pool.pos_embed": Slot(positions, tuple(positions.shape), linear=False)}
    return joined_slots(slots_of(model, {"visual.conv1.weight": kernel}), published_name) | fixed


def load_weights(model: QwenVL, folder: Path) -> None:
    """Fill the model from the folder's safetensors files. Raises WeightsError."""
    tied = model.config.tie_word_embeddings

    def ignore(name: str) -> bool:
        return (tied and name == "lm_head.weight") or _COMPUTED.fullmatch(name) is not None

    load_folder(slots(model), folder, ignore=ignore)


def save_weights(model: QwenVL, folder: Path, max_shard_bytes: int = 5 << 30) -> None:
    """Write the published layout: one file, or shards of at most `max_shard_bytes` and their index."""
    save_folder(slots(model), folder, max_shard_bytes)
