"""Qwen2.5-VL: the vision tower beside the decoder, and how pictures take the place of their pad tokens.

Shapes: B batch, S sequence, T = B * S tokens, D model dim, H head dim, V vocabulary, C cells of all pictures.
Bai et al., "Qwen2.5-VL Technical Report", 2025.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn

from mix_core import ops
from mix_core.errors import DataError
from mix_core.models.common.causal_lm import Batch, CausalLM
from mix_core.models.common.decoder import DecoderShape
from mix_core.models.common.pieces import Cuts
from mix_core.models.qwen2_5_vl.geometry import Grid, as_grids, batch_positions
from mix_core.models.qwen2_5_vl.text_config import QwenVLConfig
from mix_core.models.qwen2_5_vl.vision import VisionTower
from mix_core.ops.dtypes import cast
from mix_core.ops.shapes import put_rows


class Qwen2_5_VL(CausalLM):
    cuts = Cuts(blocks="visual.blocks.", before=("visual.patch_embed.",), after=("visual.merger.",))

    def __init__(self, config: QwenVLConfig, tower: Callable[[Any], nn.Layer] = VisionTower) -> None:
        """`tower`: makes the vision tower of `config.vision`; Qwen2-VL has another one."""
        super().__init__(DecoderShape.of(config.text, qkv_bias=True), tied=config.tie_word_embeddings)
        self.config = config
        self.visual = tower(config.vision)

    def forward(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        position_ids: Any = None,
        pixel_values: Any = None,
        image_grid_thw: Any = None,
        pixel_values_videos: Any = None,
        video_grid_thw: Any = None,
        second_per_grid_ts: Any = None,
        cu_seqlens: Any = None,
    ) -> Tensor:
        """Logits (B, S, V). Arguments are numpy arrays or tensors under transformers' names and shapes.

        input_ids, attention_mask (B, S); position_ids (3, B, S), computed where absent; pixel_values(_videos)
        (patches, channels * frames * patch^2); *_grid_thw (n, 3) in patches; second_per_grid_ts (videos,)
        seconds between grid steps; cu_seqlens (segments + 1,) of one packed row. Raises DataError where pad
        tokens and grids differ.
        """
        given = dict(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            pixel_values=pixel_values,
            image_grid_thw=image_grid_thw,
            pixel_values_videos=pixel_values_videos,
            video_grid_thw=video_grid_thw,
            second_per_grid_ts=second_per_grid_ts,
            cu_seqlens=cu_seqlens,
        )
        return self.logits(given)

    def see(
        self, batch: Batch, x: Tensor | None = None, start: int = 0, stop: int | None = None
    ) -> Tensor | None:
        """The tower's cells (C, D), those of pictures before those of videos, or its state on the way."""
        pixels, grids, _ = self._visuals(batch)
        if not grids:
            return None
        if start == 0:
            x = paddle.to_tensor(pixels[0] if len(pixels) == 1 else np.concatenate(pixels))
        return self.visual(x, grids, start, stop)

    def join(self, batch: Batch, seen: Tensor | None) -> Tensor:
        """Embeddings (T, D): a row of the matrix for each token, a cell of the tower for a pad token."""
        x_TD = self.model.embed_tokens(paddle.to_tensor(batch["input_ids"].reshape(-1)))
        if seen is None:
            return x_TD
        _, _, places_C = self._visuals(batch)
        return put_rows(x_TD, places_C, cast(seen, x_TD.dtype))

    def _visuals(self, batch: Batch) -> tuple[list[np.ndarray], tuple[Grid, ...], np.ndarray]:
        """Patches of pictures and of videos, their grids, and the places of their cells among the tokens."""
        pixels: list[np.ndarray] = []
        grids: list[Grid] = []
        places = [np.zeros(0, np.int64)]
        for name, grid_name, token in (
            ("pixel_values", "image_grid_thw", self.config.image_token_id),
            ("pixel_values_videos", "video_grid_thw", self.config.video_token_id),
        ):
            pads = np.flatnonzero(batch["input_ids"] == token)
            of_kind = as_grids(batch.get(grid_name))
            cells = sum(t * h * w for t, h, w in of_kind) // self.config.vision.spatial_merge_size**2
            if len(pads) != cells or (name in batch) != bool(of_kind):
                raise DataError(
                    f"the text has {len(pads)} pad tokens with id {token} and {grid_name} gives {cells} "
                    f"cells; they must be equal, and {name} must come with {grid_name}"
                )
            if of_kind:
                pixels.append(self._checked_pixels(batch[name], name, of_kind))
                grids += of_kind
                places.append(pads)
        return pixels, tuple(grids), np.concatenate(places)

    def _checked_pixels(self, pixels: np.ndarray, name: str, grids: list[Grid]) -> np.ndarray:
        expected = (sum(t * h * w for t, h, w in grids), self.config.vision.patch_width)
        if pixels.shape != expected:
            raise DataError(
                f"{name} has shape {pixels.shape}; its grids and the patch size ask for {expected}"
            )
        return pixels.astype(np.float32, copy=False)

    def place(self, batch: Batch) -> np.ndarray:
        """Positions (3, B, S) on the axes time, row and column."""
        return batch_positions(
            batch["input_ids"],
            batch.get("attention_mask"),
            batch.get("image_grid_thw"),
            batch.get("video_grid_thw"),
            batch.get("second_per_grid_ts"),
            cu_seqlens=batch.get("cu_seqlens"),
            image_token_id=self.config.image_token_id,
            video_token_id=self.config.video_token_id,
            merge=self.config.vision.spatial_merge_size,
            tokens_per_second=self.config.vision.tokens_per_second,
        )

    def tables(self, positions_ABS: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """cos and sin (B, S, H); one axis stands for all three."""
        text = self.config.text
        if len(positions_ABS) == 1:
            return ops.rotary_tables_1d(positions_ABS[0], text.head_dim, text.rope_theta)
        return ops.rotary_tables_mrope(positions_ABS, text.head_dim, text.rope_theta, text.mrope_section)
