"""Weights of InternVL2 between the published files and the model.

OpenGVLab's names are `vision_model.*`, `language_model.*` and `mlp1.*`. InternLM2 keeps q, k and v in one
matrix, rows "(h gs d)": for each head of keys and values h its query heads, its key and its value, each of d
rows. The model has them as three.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from paddle import Tensor

from mix_core.models.common.weights import Slot, load_folder, save_folder, slots_of
from mix_core.models.internvl2.model import InternVL2
from mix_core.models.internvl2.names import FUSED, PARTS, published_name


class FusedMatrix:
    """Three parameters (D, out) that a file keeps as one; a `Slot` takes it for a parameter."""

    def __init__(self, parts: tuple[Tensor, Tensor, Tensor], kv_heads: int) -> None:
        self._parts, self._kv_heads = parts, kv_heads
        q, k, _ = parts
        self._groups = q.shape[1] // k.shape[1]
        self.dtype = q.dtype
        self.shape = [q.shape[0], sum(part.shape[1] for part in parts)]

    def set_value(self, value: Any) -> None:
        """Split an array or tensor (D, (h gs d))."""
        D, _ = self.shape
        split = value.reshape([D, self._kv_heads, self._groups + 2, -1])
        ends = (0, self._groups, self._groups + 1, self._groups + 2)
        for part, start, end in zip(self._parts, ends, ends[1:]):
            part.set_value(split[:, :, start:end].reshape(part.shape))

    def numpy(self) -> np.ndarray:
        """The joined matrix (D, (h gs d))."""
        D, width = self.shape
        split = [part.numpy().reshape(D, self._kv_heads, count, -1) for part, count in self._counted()]
        return np.concatenate(split, axis=2).reshape(D, width)

    def _counted(self) -> zip[tuple[Tensor, int]]:
        return zip(self._parts, (self._groups, 1, 1))


def slots(model: InternVL2) -> dict[str, Slot]:
    """The model's weights by published name, each with its published shape."""
    vision = model.config.vision
    kernel = (vision.hidden_size, vision.num_channels, vision.patch_size, vision.patch_size)
    own = slots_of(model, {"vision_model.embeddings.patch_embedding.weight": kernel})
    found: dict[str, Slot] = {}
    for name, slot in own.items():
        published = published_name(name)
        if FUSED not in published:
            found[published] = slot
        elif published not in found:
            q, k, v = (own[name.replace(PARTS[0], part)].parameter for part in PARTS)
            fused: Any = FusedMatrix((q, k, v), model.config.text.num_key_value_heads)
            found[published] = Slot(fused, tuple(fused.shape[::-1]), linear=True)
    return found


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
