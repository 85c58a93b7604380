"""Qwen2.5-VL: the vision tower, the decoder, and how pictures take the place of their pad tokens.

Shapes: B batch, S sequence, T = B * S tokens, D model dim, V vocabulary, C cells of all pictures and videos.
Bai et al., "Qwen2.5-VL Technical Report", 2025.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn

from mix_core import ops
from mix_core.errors import DataError
from mix_core.models.common.cache import KVCache
from mix_core.models.common.decoder import Decoder, DecoderShape, Positions
from mix_core.models.common.layers import Embedding
from mix_core.models.common.random import SampleRandom
from mix_core.models.qwen2_5_vl.config import Qwen2_5_VLConfig
from mix_core.models.qwen2_5_vl.geometry import as_grids, batch_positions
from mix_core.models.qwen2_5_vl.vision import VisionTower


class Qwen2_5_VL(nn.Layer):
    def __init__(self, config: Qwen2_5_VLConfig) -> None:
        super().__init__()
        self.config = config
        text = config.text
        self.visual = VisionTower(config.vision)
        self.model = Decoder(
            DecoderShape(
                vocab_size=text.vocab_size,
                hidden_size=text.hidden_size,
                intermediate_size=text.intermediate_size,
                layers=text.num_hidden_layers,
                heads=text.num_attention_heads,
                kv_heads=text.num_key_value_heads,
                head_dim=text.head_dim,
                eps=text.rms_norm_eps,
                qkv_bias=True,
                attention_dropout=text.attention_dropout,
            )
        )
        self.lm_head = None if config.tie_word_embeddings else Embedding(text.vocab_size, text.hidden_size)
        self.random = SampleRandom() if text.attention_dropout else None

    @property
    def recompute(self) -> bool:
        """Whether training keeps each block's input only and computes the block again going back."""
        return self.model.recompute

    @recompute.setter
    def recompute(self, value: bool) -> None:
        self.model.recompute = self.visual.recompute = value

    @property
    def head_weight_VD(self) -> Tensor:
        return (self.lm_head or self.model.embed_tokens).weight

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
        """Logits (B, S, V). Arguments are numpy arrays or tensors under transformers' names and shapes."""
        batch = dict(
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
        return paddle.matmul(self.hidden_states(batch), self.head_weight_VD, transpose_y=True)

    def loss(self, batch: dict[str, Any]) -> tuple[Tensor, int]:
        """Summed cross entropy over the batch's labels, and how many there are.

        labels (B, S) stand at their own token, -100 where none; the token before each is asked to predict it,
        never across the segments of a packed row and never padding.
        """
        labels_BS = _host(batch["labels"])
        targets_BS = np.full_like(labels_BS, -100)
        targets_BS[:, :-1] = np.where(_mask(batch)[:, :-1], labels_BS[:, 1:], -100)
        if batch.get("cu_seqlens") is not None:
            targets_BS[:, _host(batch["cu_seqlens"])[1:] - 1] = -100
        targets_T = targets_BS.reshape(-1)
        rows = np.flatnonzero(targets_T != -100)
        if len(rows) == 0:
            return paddle.sum(self.hidden_states(batch)) * 0.0, 0
        hidden_RD = self.hidden_states(batch, rows)
        return ops.linear_cross_entropy(hidden_RD, self.head_weight_VD, targets_T[rows])

    def hidden_states(
        self, batch: dict[str, Any], rows: np.ndarray | None = None, cache: KVCache | None = None
    ) -> Tensor:
        """The decoder's hidden states after its last norm: (B, S, D), or (R, D) of the tokens at `rows`."""
        batch = {key: _host(value) for key, value in batch.items() if value is not None and key != "labels"}
        batch["position_ids"] = positions_3BS = self._position_ids(batch)
        order_BS = _tokens_first(batch.get("attention_mask"))
        if order_BS is not None:
            B, S = order_BS.shape
            batch["input_ids"] = np.take_along_axis(batch["input_ids"], order_BS, 1)
            positions_3BS = np.take_along_axis(positions_3BS, order_BS[None], 2)
            place_T = (np.argsort(order_BS, axis=1) + np.arange(B)[:, None] * S).reshape(-1)
            rows = None if rows is None else place_T[rows]
        if cache is not None:
            self._begin(cache, batch)
        positions = self._positions(positions_3BS, cu_seqlens=batch.get("cu_seqlens"), random=self.random)
        hidden = self.model(self._embed(batch), positions, cache, rows)
        if order_BS is None or rows is not None:
            return hidden
        return paddle.gather(hidden.reshape([B * S, -1]), paddle.to_tensor(place_T)).reshape(hidden.shape)

    def new_cache(self, batch_size: int, max_length: int) -> KVCache:
        """An empty cache for `batch_size` rows of at most `max_length` tokens, prompt and answer together."""
        return self.model.new_cache(batch_size, max_length)

    @paddle.no_grad()
    def prefill(self, cache: KVCache, batch: dict[str, Any]) -> Tensor:
        """Run the prompts, fill the cache, return the logits (B, V) that follow the last token of each row.

        Prompts may be padded on either side.
        """
        ids_BS = _host(batch["input_ids"])
        mask_BS = _mask(batch)
        last_B = mask_BS.shape[1] - 1 - np.argmax(mask_BS[:, ::-1], axis=1)
        if not mask_BS.any(axis=1).all():
            raise DataError("a row of the batch has no token; a prompt needs one")
        hidden_BD = self.hidden_states(batch, np.arange(len(ids_BS)) * ids_BS.shape[1] + last_B, cache)
        return paddle.matmul(hidden_BD, self.head_weight_VD, transpose_y=True)

    @paddle.no_grad()
    def decode(self, cache: KVCache, token_ids_B: Any) -> Tensor:
        """One more token for each row -> the logits (B, V) that follow it."""
        ids_B1 = _host(token_ids_B).reshape(-1, 1)
        positions_3B1 = np.broadcast_to(cache.advance()[:, None], (3, len(ids_B1), 1))
        x_B1D = self.model.embed_tokens(paddle.to_tensor(ids_B1))
        hidden_B1D = self.model(x_B1D, self._positions(positions_3B1, decoding=True), cache)
        return paddle.matmul(hidden_B1D[:, 0], self.head_weight_VD, transpose_y=True)

    def _begin(self, cache: KVCache, batch: dict[str, np.ndarray]) -> None:
        mask_BS = _mask(batch)
        last_B = np.where(mask_BS, batch["position_ids"], -1).max(axis=(0, 2))
        cache.begin(mask_BS.shape[1], mask_BS.sum(axis=1), last_B + 1)

    def _embed(self, batch: dict[str, np.ndarray]) -> Tensor:
        ids = batch["input_ids"]
        x_BSD = self.model.embed_tokens(paddle.to_tensor(ids))
        pixels, grids, places = [], [], []
        for name, grid_name, token in (
            ("pixel_values", "image_grid_thw", self.config.image_token_id),
            ("pixel_values_videos", "video_grid_thw", self.config.video_token_id),
        ):
            found = np.flatnonzero(ids == token)
            of_kind = as_grids(batch.get(grid_name))
            cells = sum(t * h * w for t, h, w in of_kind) // self.config.vision.spatial_merge_size**2
            if len(found) != cells or (name in batch) != bool(of_kind):
                raise DataError(
                    f"the text has {len(found)} pad tokens with id {token} and {grid_name} gives {cells} "
                    f"cells; they must be equal, and {name} must come with {grid_name}"
                )
            if of_kind:
                pixels.append(batch[name])
                grids += of_kind
                places.append(found)
        if not grids:
            return x_BSD
        cells_CD = self.visual(paddle.to_tensor(np.concatenate(pixels).astype(np.float32)), tuple(grids))
        x_TD = x_BSD.reshape([-1, x_BSD.shape[-1]])
        return paddle.scatter(x_TD, paddle.to_tensor(np.concatenate(places)), cells_CD).reshape(x_BSD.shape)

    def _position_ids(self, batch: dict[str, np.ndarray]) -> np.ndarray:
        """Rotary positions (3, B, S): the batch's own, or computed from its grids."""
        if "position_ids" in batch:
            return batch["position_ids"]
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

    def _positions(self, positions_3BS: np.ndarray, **rest: Any) -> Positions:
        text = self.config.text
        cos, sin = ops.rotary_tables_mrope(positions_3BS, text.head_dim, text.rope_theta, text.mrope_section)
        return Positions(
            cos_BS1H=paddle.to_tensor(cos[:, :, None]), sin_BS1H=paddle.to_tensor(sin[:, :, None]), **rest
        )


def _mask(batch: dict[str, Any]) -> np.ndarray:
    """True at tokens, False at padding, (B, S)."""
    mask = batch.get("attention_mask")
    return np.ones(batch["input_ids"].shape, bool) if mask is None else _host(mask).astype(bool)


def _tokens_first(mask_BS: np.ndarray | None) -> np.ndarray | None:
    """The order of places that brings each row's tokens before its padding; None where they already are."""
    if mask_BS is None or not (np.diff(mask_BS.astype(np.int8), axis=1) > 0).any():
        return None
    return np.argsort(mask_BS == 0, axis=1, kind="stable")


def _host(value: Any) -> np.ndarray:
    return value.numpy() if isinstance(value, Tensor) else np.asarray(value)
