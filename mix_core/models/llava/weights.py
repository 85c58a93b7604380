"""Weights of LLaVA between files and the model.

Written are the names of llava-hf: `language_model.model.*`, `language_model.lm_head.weight`,
`vision_tower.vision_model.*`, `multi_modal_projector.linear_1`, `linear_2` and, in LLaVA-1.6,
`image_newline`. Read are those, the names that transformers 5 gives the same weights in memory
(`model.language_model.*`...), and the authors': `model.layers.*`, `model.mm_projector.0`, `2`,
`model.image_newline` and, where the tower was trained, `model.vision_tower.vision_tower.vision_model.*`.
Where an authors' folder has no tower, it comes from the folder that its config.json names.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mix_core.errors import WeightsError
from mix_core.models.common.parts import whole_shape
from mix_core.models.common.random import named_generator
from mix_core.models.common.tensor_files import read_folder
from mix_core.models.common.weights import Slot, fill_random, load_folder, save_folder, slots_of
from mix_core.models.llava.model import Llava
from mix_core.models.llava.names import our_name, published_name
from mix_core.models.llava.original import tower_folder
from mix_core.models.registry import read_config

_TOWER = "vision_tower.vision_model."


def slots(model: Llava) -> dict[str, Slot]:
    """All weights of the published files by the model's names, those that never run included."""
    vision = model.config.vision
    kernel = (vision.hidden_size, vision.num_channels, vision.patch_size, vision.patch_size)
    found = slots_of(model, {f"{_TOWER}embeddings.patch_embedding.weight": kernel})
    rest, norm = model.vision_tower.vision_model.unused
    for i, layer in enumerate(rest, start=model.config.tower_layers):
        found |= {f"{_TOWER}encoder.layers.{i}.{name}": slot for name, slot in slots_of(layer).items()}
    return found | {f"{_TOWER}post_layernorm.{name}": slot for name, slot in slots_of(norm).items()}


@dataclass(frozen=True)
class _GrownSlot(Slot):
    """A matrix with more rows than the file has; those of added tokens are the mean of the others."""

    def to_parameter(self, published: np.ndarray) -> np.ndarray:
        more = whole_shape(self.parameter)[0] - len(published)
        return np.concatenate([published, np.repeat(published.mean(0, keepdims=True), more, axis=0)])


def load_weights(model: Llava, folder: Path) -> None:
    """Fill the model from a folder's safetensors files. Raises WeightsError."""
    folder = Path(folder)
    wanted = slots(model)
    source = read_config(folder)
    tower = {}
    if "mm_vision_tower" in source:
        stored = {our_name(name) for name in read_folder(folder)}
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            slot = wanted[name]
            wanted[name] = _GrownSlot(slot.parameter, (source["vocab_size"], slot.shape[1]), linear=False)
        if not any(name.startswith(_TOWER) for name in stored):
            tower = {name: wanted.pop(name) for name in list(wanted) if name.startswith(_TOWER)}
    tied = model.config.tie_word_embeddings

    def ignore(name: str) -> bool:
        # a tied head repeats the embedding
        return _is_computed(name) or (tied and name == "lm_head.weight")

    load_folder(wanted, folder, our_name, ignore)
    if tower:
        _load_tower(tower, source["mm_vision_tower"], folder)


def _is_computed(name: str) -> bool:
    """Positions and frequencies, which older files hold."""
    return name.endswith(("rotary_emb.inv_freq", "embeddings.position_ids"))


def _load_tower(tower: dict[str, Slot], name: str, folder: Path) -> None:
    """Fill the tower from a CLIP folder, of which the text half is passed over."""

    def ignore(stored: str) -> bool:
        return _is_computed(stored) or not stored.startswith(_TOWER)

    try:
        load_folder(tower, tower_folder(name), lambda stored: f"vision_tower.{stored}", ignore)
    except WeightsError as error:
        raise WeightsError(
            f"{folder} has no vision tower and names {name}, which gives none: {error}"
        ) from error


def save_weights(model: Llava, folder: Path, max_shard_bytes: int = 5 << 30) -> None:
    """Write llava-hf's layout: one file, or shards of at most `max_shard_bytes` and their index."""
    named = {published_name(name): slot for name, slot in slots(model).items()}
    save_folder(named, folder, max_shard_bytes)


def init_weights(model: Llava, seed: int) -> None:
    """Draw the class token and the newline as embeddings are drawn, too: they are vectors, but no biases."""
    deviation = model.config.text.initializer_range
    fill_random(model, seed, deviation)
    for name, parameter in model.named_parameters():
        if name.endswith(("class_embedding", "image_newline")):
            values = named_generator(seed, name).standard_normal(parameter.shape, dtype=np.float32)
            parameter.set_value(values * np.float32(deviation))
