"""A small LLaVA twice, ours and transformers', with the same random weights; batches for both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mix_core.models import load_model
from mix_core.models.llava.geometry import rows_of, tile_count
from mix_core.models.llava.names import our_name
from mix_core.models.llava.weights import slots
from tests.builders.llava import llava_config, transformers_model
from tests.parity.agreement import gradients_of

IMAGE = 300
"""Of a vocabulary whose text tokens are 0 to 299; padding is 301."""


class Peers:
    """Both models and the configuration they share."""

    def __init__(self, folder: Path, *, anyres: bool, **config: Any) -> None:
        self.config = llava_config(anyres=anyres, image_token=IMAGE, tokens=320, **config)
        self.theirs = transformers_model(self.config)
        self.theirs.save_pretrained(folder)
        self.family, self.ours_config, self.ours = load_model(folder)

    def batch(
        self, rows: Sequence[Sequence[Any]], seed: int = 0, side: str = "left"
    ) -> dict[str, np.ndarray]:
        return make_batch(self.ours_config, rows, seed=seed, side=side)

    def for_theirs(self, batch: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
        return {key: torch.tensor(value) for key, value in batch.items()}

    def their_gradients(self) -> dict[str, np.ndarray]:
        """By our names, and in the published shapes."""
        named = self.theirs.named_parameters()
        return {our_name(name): p.grad.numpy() for name, p in named if p.grad is not None}

    def our_gradients(self) -> dict[str, np.ndarray]:
        return gradients_of(slots(self.ours))


def make_batch(
    config: Any, rows: Sequence[Sequence[Any]], *, seed: int = 0, side: str = "left"
) -> dict[str, np.ndarray]:
    """Rows of parts: text of so many tokens, or (height, width) of a picture; padded to the longest."""
    rng = np.random.default_rng(seed)
    vision, pinpoints = config.vision, config.pinpoints
    texts, sizes = [], []
    for row in rows:
        ids: list[int] = []
        for part in row:
            if isinstance(part, int):
                ids += rng.integers(0, 300, part).tolist()
                continue
            sizes.append(part)
            count = config.tile_rows
            if pinpoints is not None:
                count = len(rows_of(part, pinpoints, vision.image_size, vision.grid))
            ids += [config.image_token_id] * count
        texts.append(ids)
    longest = max(map(len, texts))
    batch = {
        "input_ids": np.full((len(texts), longest), config.image_token_id + 1),
        "attention_mask": np.zeros((len(texts), longest), np.int64),
    }
    for b, ids in enumerate(texts):
        place = slice(longest - len(ids), None) if side == "left" else slice(len(ids))
        batch["input_ids"][b, place] = ids
        batch["attention_mask"][b, place] = 1
    tiles = [1 if pinpoints is None else tile_count(size, pinpoints, vision.image_size) for size in sizes]
    if sizes:
        shape = (sum(tiles), 3, vision.image_size, vision.image_size)
        batch["pixel_values"] = rng.standard_normal(shape).astype(np.float32)
        if pinpoints is not None:
            batch["image_sizes"] = np.array(sizes, np.int64)
    return batch
