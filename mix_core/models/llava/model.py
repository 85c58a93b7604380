"""LLaVA: CLIP's tower, a projector and a decoder; pictures take the place of their pad tokens.

Shapes: B batch, S sequence, T = B * S tokens, D decoder width, H head dim, V vocabulary, I tiles of all
pictures, n pictures, R rows of all pictures, P patches along a side of a tile, p patch side.
Liu et al., "Visual Instruction Tuning", 2023, and "Improved Baselines with Visual Instruction Tuning", 2024.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
from paddle import Tensor
from paddle.nn.initializer import Constant

from mix_core import ops
from mix_core.errors import DataError
from mix_core.models.common.causal_lm import Batch, CausalLM
from mix_core.models.common.decoder import DecoderShape
from mix_core.models.common.geometry import patches_of
from mix_core.models.common.pieces import Cuts
from mix_core.models.llava.config import LlavaConfig, Size
from mix_core.models.llava.geometry import NEWLINE, batch_rows, tile_count
from mix_core.models.llava.vision import Projector, VisionTower
from mix_core.ops.dtypes import cast
from mix_core.ops.shapes import put_rows, take_rows


class Llava(CausalLM):
    cuts = Cuts(
        blocks="vision_tower.vision_model.encoder.layers.",
        before=("vision_tower.vision_model.embeddings.", "vision_tower.vision_model.pre_layrnorm."),
        after=("multi_modal_projector.", "image_newline"),
    )

    def __init__(self, config: LlavaConfig) -> None:
        text = config.text
        super().__init__(DecoderShape.of(text, qkv_bias=False), tied=config.tie_word_embeddings)
        self.config = config
        self.vision_tower = VisionTower(config.vision, config.tower_layers)
        self.multi_modal_projector = Projector(config)
        if config.anyres:
            zeros = Constant(0.0)
            self.image_newline = self.create_parameter([text.hidden_size], default_initializer=zeros)

    def forward(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        position_ids: Any = None,
        pixel_values: Any = None,
        image_sizes: Any = None,
        cu_seqlens: Any = None,
    ) -> Tensor:
        """Logits (B, S, V). Arguments are numpy arrays or tensors under transformers' names and shapes.

        input_ids, attention_mask (B, S); position_ids (B, S) or (1, B, S), computed where absent;
        pixel_values (I, 3, side, side), or (n, most tiles, 3, side, side) with unused tiles at the end;
        image_sizes (n, 2), heights and widths of the pictures in pixels, for LLaVA-1.6; cu_seqlens
        (segments + 1,) of one packed row. Raises DataError where pad tokens and pictures differ.
        """
        if position_ids is not None and len(position_ids.shape) == 2:
            position_ids = position_ids[None]
        given = dict(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            pixel_values=pixel_values,
            image_sizes=image_sizes,
            cu_seqlens=cu_seqlens,
        )
        return self.logits(given)

    def see(
        self, batch: Batch, x: Tensor | None = None, start: int = 0, stop: int | None = None
    ) -> Tensor | None:
        """The pictures' rows (R, D), or the tower's state on the way there."""
        tiles, rows_R, _ = self._pictures(batch)
        if not len(tiles):
            return None
        if start == 0:
            x = paddle.to_tensor(patches_of(tiles, self.config.vision.patch_size))
        hidden_ISD = self.vision_tower(x, start, stop)
        return hidden_ISD if stop is not None else self._features(hidden_ISD, rows_R)

    def join(self, batch: Batch, seen: Tensor | None) -> Tensor:
        """Embeddings (T, D): a row of the matrix for each token, a row of a picture for a pad token."""
        ids_T = batch["input_ids"].reshape(-1)
        # a vocabulary need not have a row for the pad token, which is overwritten in any case
        x_TD = self.model.embed_tokens(
            paddle.to_tensor(np.where(ids_T == self.config.image_token_id, 0, ids_T))
        )
        _, _, places_R = self._pictures(batch)
        return x_TD if seen is None else put_rows(x_TD, places_R, cast(seen, x_TD.dtype))

    def _pictures(self, batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The tiles, which row of theirs stands where a picture's rows do, and the places of those (R,)."""
        places_R = np.flatnonzero(batch["input_ids"].reshape(-1) == self.config.image_token_id)
        sizes = _sizes(batch.get("image_sizes"))
        tiles = self._tiles(batch.get("pixel_values"), sizes)
        rows_R = self._rows(len(tiles), sizes)
        if len(places_R) != len(rows_R):
            raise DataError(
                f"the text has {len(places_R)} pad tokens with id {self.config.image_token_id}, and its "
                f"pictures ({len(tiles)} tiles) give {len(rows_R)} rows; they must be equal"
            )
        return tiles, rows_R, places_R

    def _tiles(self, pixels: np.ndarray | None, sizes: list[Size]) -> np.ndarray:
        """The tiles that count, (I, channels, side, side) float32."""
        vision = self.config.vision
        shape = (vision.num_channels, vision.image_size, vision.image_size)
        if pixels is None:
            return np.zeros((0, *shape), np.float32)
        counts = [1] * len(pixels)
        if self.config.anyres:
            counts = [tile_count(size, self.config.pinpoints, vision.image_size) for size in sizes]
        if pixels.ndim == 5 and len(pixels) == len(counts) and pixels.shape[1] >= max(counts):
            pixels = np.concatenate([of_one[:count] for of_one, count in zip(pixels, counts)])
        if pixels.shape != (sum(counts), *shape):
            raise DataError(
                f"pixel_values has shape {pixels.shape}, expected {(sum(counts), *shape)}"
                + (f" for the {len(sizes)} pictures in image_sizes" if self.config.anyres else "")
            )
        return pixels.astype(np.float32, copy=False)

    def _rows(self, tiles: int, sizes: list[Size]) -> np.ndarray:
        """For each row of all pictures which row of the tower's output it is, or NEWLINE, (R,)."""
        vision, pinpoints = self.config.vision, self.config.pinpoints
        if pinpoints is None or not tiles:
            return np.arange(tiles * self.config.tile_rows)
        return batch_rows(sizes, pinpoints, vision.image_size, vision.grid)

    def _features(self, hidden_ISD: Tensor, rows_R: np.ndarray) -> Tensor:
        """Rows for the decoder (R, D) of what the tower gave."""
        if not self.config.keep_class_token:
            hidden_ISD = hidden_ISD[:, 1:]
        features = self.multi_modal_projector(hidden_ISD.reshape([-1, hidden_ISD.shape[-1]]))
        lines = rows_R == NEWLINE
        if not self.config.anyres:
            return features
        # each newline is a row of its own, so that no row is taken twice
        newlines = paddle.zeros([int(lines.sum()), features.shape[1]], features.dtype)
        newlines = newlines + cast(self.image_newline, features.dtype)
        rows_R = np.where(lines, features.shape[0] + np.cumsum(lines) - 1, rows_R)
        return take_rows(paddle.concat([features, newlines]), paddle.to_tensor(rows_R))

    def tables(self, positions_ABS: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """cos and sin (B, S, H). Raises DataError for a row that a sliding window would cut."""
        text = self.config.text
        last = int(positions_ABS.max(initial=0))
        if text.sliding_window is not None and last >= text.sliding_window:
            raise DataError(
                f"a row has {last + 1} tokens, and the model's attention slides over {text.sliding_window}; "
                "windows are not built, so rows must not be longer than one"
            )
        return ops.rotary_tables_1d(positions_ABS[0], text.head_dim, text.rope_theta)


def _sizes(image_sizes: np.ndarray | None) -> list[Size]:
    if image_sizes is None:
        return []
    return [(int(height), int(width)) for height, width in image_sizes]
