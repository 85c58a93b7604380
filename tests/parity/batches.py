"""Small batches under transformers' names: text, pictures and videos. Needs neither torch nor paddle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mix_core.models.qwen2_5_vl.geometry import batch_positions

IDS = {"<|endoftext|>": 300, "<|im_end|>": 301, "<|vision_start|>": 302, "<|vision_end|>": 303}
IDS |= {"<|vision_pad|>": 304, "<|image_pad|>": 305, "<|video_pad|>": 306}
"""Of a vocabulary whose text tokens are 0 to 299."""

Part = int | tuple[Any, ...]
"""Text of so many tokens, ("image", grid) or ("video", grid, seconds per grid step)."""


def make_batch(
    config: dict[str, Any], rows: Sequence[Sequence[Part]], *, seed: int = 0, side: str = "left"
) -> dict[str, np.ndarray]:
    """Arrays for a model with this config.json; rows are padded to the longest on `side`."""
    rng = np.random.default_rng(seed)
    vision = config["vision_config"]
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


def positions(config: dict[str, Any], batch: dict[str, np.ndarray]) -> np.ndarray:
    """Rotary positions (3, B, S) as we count them."""
    vision = config["vision_config"]
    return batch_positions(
        batch["input_ids"],
        batch["attention_mask"],
        batch.get("image_grid_thw"),
        batch.get("video_grid_thw"),
        batch.get("second_per_grid_ts"),
        image_token_id=IDS["<|image_pad|>"],
        video_token_id=IDS["<|video_pad|>"],
        merge=vision["spatial_merge_size"],
        tokens_per_second=vision.get("tokens_per_second"),
    )
