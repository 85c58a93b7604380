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
from mix_core.models.common.decoder import Decoder, DecoderShape, Positions
from mix_core.models.common.layers import Embedding
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
        self.recompute = False
        self.random = None

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
        never across the segments of a packed row.
        """
        labels = _host(batch["labels"])
        targets = np.full_like(labels, -100)
        targets[:, :-1] = labels[:, 1:]
        if batch.get("cu_seqlens") is not None:
            targets[:, _host(batch["cu_seqlens"])[1:] - 1] = -100
        hidden_BSD = self.hidden_states(batch)
        hidden_TD = hidden_BSD.reshape([-1, hidden_BSD.shape[-1]])
        return ops.linear_cross_entropy(hidden_TD, self.head_weight_VD, targets.reshape(-1))

    def hidden_states(self, batch: dict[str, Any]) -> Tensor:
        """The decoder's last hidden states after its norm (B, S, D)."""
        batch = {key: _host(value) for key, value in batch.items() if value is not None and key != "labels"}
        x_BSD = self._embed(batch)
        return self.model(x_BSD, self._positions(batch))

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
                    f"the text has {len(found)} pad tokens with id {token} and {grid_name} gives {cells} cells; "
                    f"they must be equal, and {name} must come with {grid_name}"
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

    def _positions(self, batch: dict[str, np.ndarray]) -> Positions:
        text, vision = self.config.text, self.config.vision
        ids, mask, cu_seqlens = batch["input_ids"], batch.get("attention_mask"), batch.get("cu_seqlens")
        positions_3BS = batch.get("position_ids")
        if positions_3BS is None:
            positions_3BS = batch_positions(
                ids,
                mask,
                batch.get("image_grid_thw"),
                batch.get("video_grid_thw"),
                batch.get("second_per_grid_ts"),
                cu_seqlens=cu_seqlens,
                image_token_id=self.config.image_token_id,
                video_token_id=self.config.video_token_id,
                merge=vision.spatial_merge_size,
                tokens_per_second=vision.tokens_per_second,
            )
        cos, sin = ops.rotary_tables_mrope(positions_3BS, text.head_dim, text.rope_theta, text.mrope_section)
        mask_B1SS = None
        if mask is not None and (np.diff(mask, axis=1) > 0).any():
            S = ids.shape[1]
            keep = np.tril(np.ones((S, S), bool))[None] & mask[:, None, :].astype(bool)
            mask_B1SS = paddle.to_tensor(keep[:, None])
        return Positions(
            cos_BS1H=paddle.to_tensor(cos[:, :, None]),
            sin_BS1H=paddle.to_tensor(sin[:, :, None]),
            mask_B1SS=mask_B1SS,
            cu_seqlens=cu_seqlens,
        )


def _host(value: Any) -> np.ndarray:
    return value.numpy() if isinstance(value, Tensor) else np.asarray(value)
