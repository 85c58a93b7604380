"""A small Qwen2.5-VL or Qwen2-VL twice, ours and transformers', with equal random weights; batches for both.

transformers 5.3.0 counts positions of pictures and videos differently from the models' training (its issues
45325 and 45381, mended by its pull request 45400): the positions are therefore handed to it.
`test_qwen2_5_vl_positions.py` holds our positions to values worked out by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mix_core.models import load_model
from mix_core.models.qwen2_5_vl.weights import published_name, slots
from tests.builders.checkpoints import flat_config, transformers_model
from tests.parity.agreement import gradients_of
from tests.parity.batches import IDS, Part, make_batch, positions


class Peers:
    """Both models and the configuration they share."""

    def __init__(
        self,
        folder: Path,
        *,
        tied: bool = True,
        config_of: Callable[..., dict[str, Any]] = flat_config,
        **sizes: dict[str, Any],
    ) -> None:
        self.config = config_of(IDS, 320, tie_word_embeddings=tied, **sizes)
        self.theirs = transformers_model(self.config)
        self.theirs.save_pretrained(folder)
        self.family, _, self.ours = load_model(folder)

    def batch(
        self, rows: Sequence[Sequence[Part]], seed: int = 0, side: str = "left"
    ) -> dict[str, np.ndarray]:
        return make_batch(self.config, rows, seed=seed, side=side)

    def for_theirs(self, batch: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
        given = {key: torch.tensor(value) for key, value in batch.items() if key != "second_per_grid_ts"}
        return given | {"position_ids": torch.tensor(positions(self.config, batch))}

    def their_gradients(self) -> dict[str, np.ndarray]:
        """By published name, and in the published shapes."""
        named = self.theirs.named_parameters()
        return {published_name(name): p.grad.numpy() for name, p in named if p.grad is not None}

    def our_gradients(self) -> dict[str, np.ndarray]:
        return gradients_of(slots(self.ours))

    def for_generate(self, batch: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
        """generate wants the plain positions before those of the three axes."""
        given = self.for_theirs(batch)
        plain = np.maximum(np.cumsum(batch["attention_mask"], axis=1) - 1, 0)
        return given | {"position_ids": torch.cat([torch.tensor(plain)[None], given["position_ids"]])}
