"""A small Qwen2.5-VL twice, ours and transformers', with the same random weights; batches for both.

transformers 5.3.0 counts positions of pictures and videos differently from the models' training (its issues
45325 and 45381, mended by its pull request 45400): the positions are therefore handed to it.
`test_qwen2_5_vl_positions.py` holds our positions to values worked out by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import torch

from mix_core.models import load_model
from mix_core.models.qwen2_5_vl.geometry import batch_positions
from mix_core.models.qwen2_5_vl.weights import published_name, slots
from tests.builders.checkpoints import flat_config, transformers_model

IDS = {"<|endoftext|>": 300, "<|im_end|>": 301, "<|vision_start|>": 302, "<|vision_end|>": 303}
IDS |= {"<|vision_pad|>": 304, "<|image_pad|>": 305, "<|video_pad|>": 306}

Part = int | tuple[Any, ...]
"""Text of so many tokens, ("image", grid) or ("video", grid, seconds per grid step)."""


class Peers:
    """Both models and the configuration they share."""

    def __init__(self, folder: Path, *, tied: bool = True, **sizes: dict[str, Any]) -> None:
        self.config = flat_config(IDS, 320, tie_word_embeddings=tied, **sizes)
        self.theirs = transformers_model(self.config)
        self.theirs.save_pretrained(folder)
        self.family, _, self.ours = load_model(folder)

    def batch(
        self, rows: Sequence[Sequence[Part]], seed: int = 0, side: str = "left"
    ) -> dict[str, np.ndarray]:
        """Arrays under transformers' names; rows are padded to the longest on `side`."""
        rng = np.random.default_rng(seed)
        vision = self.config["vision_config"]
        width = 3 * vision["temporal_patch_size"] * vision["patch_size"] ** 2
        texts, grids, seconds = [], {"image": [], "video": []}, []
        for row in rows:
            ids: list[int] = []
            for part in row:
                if isinstance(part, int):
                    ids += rng.integers(0, 300, part).tolist()
                    continue
                kind, (t, h, w), *second = part
                grids[kind].append((t, h, w))
                seconds += second
                pads = [IDS[f"<|{kind}_pad|>"]] * (t * h * w // vision["spatial_merge_size"] ** 2)
                ids += [IDS["<|vision_start|>"], *pads, IDS["<|vision_end|>"]]
            texts.append(ids)
        longest = max(map(len, texts))
        batch: dict[str, np.ndarray] = {
            "input_ids": np.full((len(texts), longest), IDS["<|endoftext|>"]),
            "attention_mask": np.zeros((len(texts), longest), np.int64),
        }
        for b, ids in enumerate(texts):
            place = slice(longest - len(ids), None) if side == "left" else slice(len(ids))
            batch["input_ids"][b, place] = ids
            batch["attention_mask"][b, place] = 1
        for kind, suffix in (("image", ""), ("video", "_videos")):
            if grids[kind]:
                batch[f"{kind}_grid_thw"] = np.array(grids[kind])
                patches = sum(t * h * w for t, h, w in grids[kind])
                batch[f"pixel_values{suffix}"] = rng.standard_normal((patches, width)).astype(np.float32)
        if seconds:
            batch["second_per_grid_ts"] = np.array(seconds, np.float32)
        return batch

    def positions(self, batch: dict[str, np.ndarray]) -> np.ndarray:
        """Rotary positions (3, B, S) as we count them."""
        vision = self.config["vision_config"]
        return batch_positions(
            batch["input_ids"],
            batch["attention_mask"],
            batch.get("image_grid_thw"),
            batch.get("video_grid_thw"),
            batch.get("second_per_grid_ts"),
            image_token_id=IDS["<|image_pad|>"],
            video_token_id=IDS["<|video_pad|>"],
            merge=vision["spatial_merge_size"],
            tokens_per_second=vision["tokens_per_second"],
        )

    def for_theirs(self, batch: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
        given = {key: torch.tensor(value) for key, value in batch.items() if key != "second_per_grid_ts"}
        return given | {"position_ids": torch.tensor(self.positions(batch))}

    def their_gradients(self) -> dict[str, np.ndarray]:
        """By published name, and in the published shapes."""
        named = self.theirs.named_parameters()
        return {published_name(name): p.grad.numpy() for name, p in named if p.grad is not None}

    def our_gradients(self) -> dict[str, np.ndarray]:
        gradients = {}
        for name, slot in slots(self.ours).items():
            if slot.parameter.grad is not None:
                values = slot.parameter.grad.numpy()
                gradients[name] = (values.T if slot.linear else values).reshape(slot.shape)
        return gradients


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def as_numpy(tensor: paddle.Tensor | torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy()
