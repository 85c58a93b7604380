"""Floating point operations of a model, for plans and for the report of a run's speed.

A product of (T, I) and (I, O) counts 2 * T * I * O; norms, gates and softmax count nothing. What is computed
again (recompute) does not count: these are the model's operations, as in Chowdhery et al., "PaLM: Scaling
Language Modeling with Pathways", 2022, appendix B.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mix_core.models.outline import PARTS, Outline, Stack
from mix_core.planning.work import Work

ALL_LEARN: Mapping[str, bool] = {part: True for part in PARTS}


def block_flops(stack: Stack, rows: int, pairs: int) -> int:
    """Forward, of one block: `rows` vectors, of which `pairs` see each other."""
    products = stack.attention_matrices + stack.mlp_matrices
    return 2 * rows * products + 4 * pairs * stack.heads * stack.head_dim


@dataclass(frozen=True)
class Forward:
    """Operations of a forward pass by part."""

    by_part: Mapping[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        return sum(self.by_part.values())

    def training(self, learns: Mapping[str, bool] = ALL_LEARN, *, adapters: bool = False) -> float:
        """Forward and backward: a part that learns costs its forward pass twice more, for its input and for
        its weights; a frozen one behind a part that learns once more, and so does a decoder with `adapters`
        (whose own operations are few); any other nothing more."""
        total, reached = 0.0, False
        for part in PARTS:
            own = learns.get(part, True)
            reached = reached or (adapters and part == "decoder")
            total += self.by_part.get(part, 0.0) * (3 if own else 2 if reached else 1)
            reached = reached or own
        return total


def forward_flops(outline: Outline, work: Work) -> Forward:
    """Of one pass; tower and projector run where there are patches."""
    decoder, tower = outline.decoder, outline.tower
    text = decoder.layers * block_flops(decoder, work.tokens, work.token_pairs)
    text += 2 * work.labels * outline.vocabulary * decoder.width
    pairs = tower_pairs(tower, work)
    tiles = work.patches / outline.tile_patches
    maps = {part: 0.0 for part in PARTS}
    for one in outline.maps:
        maps[one.part] += 2.0 * tiles * one.rows * one.inputs * one.outputs
    products = 2.0 * work.patches * (tower.attention_matrices + tower.mlp_matrices) * tower.layers
    attention = 4.0 * pairs * tower.heads * tower.head_dim
    return Forward(
        {
            "tower": products + attention + maps["tower"],
            "projector": maps["projector"],
            "decoder": float(text),
        }
    )


def tower_pairs(tower: Stack, work: Work) -> int:
    """Pairs of patches that see each other, over all layers; windows count as full ones."""
    if tower.window is None:
        return tower.layers * work.patch_pairs
    windowed = sum(count * length * min(length, tower.window) for length, count in work.patch_spans)
    return tower.full_layers * work.patch_pairs + (tower.layers - tower.full_layers) * windowed


def work_of(outline: Outline, batch: Mapping[str, Any]) -> Work:
    """What a batch of numpy arrays asks of the model, its padding left out."""
    if batch.get("cu_seqlens") is not None:
        lengths = np.diff(batch["cu_seqlens"])
    elif batch.get("attention_mask") is not None:
        lengths = np.asarray(batch["attention_mask"]).astype(bool).sum(axis=1)
    else:
        rows, length = batch["input_ids"].shape
        lengths = np.full(rows, length)
    frames = _frames(outline, batch)
    labels = int((batch["labels"] != -100).sum()) if batch.get("labels") is not None else 0
    return Work(
        tokens=int(lengths.sum()),
        spans=_counted(lengths),
        labels=labels,
        patches=int(frames.sum()),
        patch_spans=_counted(frames),
    )


def _frames(outline: Outline, batch: Mapping[str, Any]) -> np.ndarray:
    """Patches of each frame or tile."""
    grids = [batch[key] for key in ("image_grid_thw", "video_grid_thw") if batch.get(key) is not None]
    if grids:
        rows = np.concatenate([np.asarray(grid).reshape(-1, 3) for grid in grids])
        return np.repeat(rows[:, 1] * rows[:, 2], rows[:, 0])
    pixels = batch.get("pixel_values")
    if pixels is None:
        return np.zeros(0, np.int64)
    tiles = int(np.prod(pixels.shape[:-3]))
    return np.full(tiles, outline.tile_patches)


def _counted(lengths: np.ndarray) -> tuple[tuple[int, int], ...]:
    distinct, counts = np.unique(lengths[lengths > 0], return_counts=True)
    return tuple((int(length), int(count)) for length, count in zip(distinct, counts))
