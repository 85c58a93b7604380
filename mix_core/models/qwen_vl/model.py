"""Qwen-VL: the vision tower beside the decoder, and how pictures take the place of their pad tokens.

Shapes: B batch, S sequence, T = B * S tokens, D model dim, H head dim, V vocabulary, n pictures, Q tokens of
one, C = n * Q.
Bai et al., "Qwen-VL: A Versatile Vision-Language Model for Understanding, Localization, Text Reading, and
Beyond", 2023.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
from paddle import Tensor

from mix_core.errors import DataError
from mix_core.models.common.causal_lm import Batch, CausalLM, tables_by_base
from mix_core.models.common.decoder import DecoderShape
from mix_core.models.common.geometry import patches_of, sequence_lengths
from mix_core.models.common.pieces import Cuts
from mix_core.models.qwen_vl.config import QwenVLConfig
from mix_core.models.qwen_vl.geometry import logn_scales, ntk_alpha
from mix_core.models.qwen_vl.vision import VisionTower
from mix_core.ops.dtypes import cast
from mix_core.ops.shapes import put_rows


class QwenVL(CausalLM):
    cuts = Cuts(
        blocks="visual.transformer.resblocks.",
        before=("visual.conv1.", "visual.positional_embedding", "visual.ln_pre."),
        after=("visual.attn_pool.", "visual.ln_post.", "visual.proj"),
    )

    def __init__(self, config: QwenVLConfig) -> None:
        shape = DecoderShape(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size // 2,
            layers=config.num_hidden_layers,
            heads=config.num_attention_heads,
            kv_heads=config.num_attention_heads,
            head_dim=config.head_dim,
            eps=config.layer_norm_epsilon,
            qkv_bias=True,
            attention_dropout=config.attn_dropout_prob,
        )
        super().__init__(shape, tied=config.tie_word_embeddings)
        self.config = config
        self.visual = VisionTower(config.vision)

    def forward(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        position_ids: Any = None,
        pixel_values: Any = None,
        cu_seqlens: Any = None,
    ) -> Tensor:
        """Logits (B, S, V). Arguments are numpy arrays or tensors.

        input_ids, attention_mask (B, S); position_ids (1, B, S), counted where absent; pixel_values (n, 3,
        side, side), normalised, in the order of their places in the text; cu_seqlens (segments + 1,) of one
        packed row. Raises DataError where pictures and places differ.
        """
        given = dict(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            pixel_values=pixel_values,
            cu_seqlens=cu_seqlens,
        )
        return self.logits(given)

    def see(
        self, batch: Batch, x: Tensor | None = None, start: int = 0, stop: int | None = None
    ) -> Tensor | None:
        """The pictures' tokens (C, D), or the tower's state on the way there."""
        pictures = len(self._places(batch)) // self.config.vision.n_queries
        if not pictures:
            return None
        if start == 0:
            x = paddle.to_tensor(self._patches(batch["pixel_values"]))
        return self.visual(x, pictures, start, stop)

    def join(self, batch: Batch, seen: Tensor | None) -> Tensor:
        """Embeddings (T, D): a row of the matrix for each token, the tower's between <img> and </img>."""
        x_TD = self.model.embed_tokens(paddle.to_tensor(batch["input_ids"].reshape(-1)))
        return x_TD if seen is None else put_rows(x_TD, self._places(batch), cast(seen, x_TD.dtype))

    def _places(self, batch: Batch) -> np.ndarray:
        """Of the pictures' tokens in the flattened batch (C,)."""
        queries = self.config.vision.n_queries
        places_C = picture_places(batch["input_ids"], self.config.image_start_id, queries)
        pixels = batch.get("pixel_values")
        given = 0 if pixels is None else len(pixels)
        if given * queries != len(places_C):
            raise DataError(
                f"the text has {len(places_C) // queries} places for pictures and "
                f"pixel_values holds {given}; the numbers must be equal"
            )
        return places_C

    def _patches(self, pixels: np.ndarray) -> np.ndarray:
        """(n, 3, side, side) -> (n * patches, 3 * patch^2), a picture's patches row by row."""
        vision = self.config.vision
        expected = (3, vision.image_size, vision.image_size)
        if pixels.shape[1:] != expected:
            raise DataError(f"pixel_values has shape {pixels.shape}; expected (pictures, {expected})")
        cut = patches_of(pixels.astype(np.float32, copy=False), vision.patch_size)
        return cut.reshape(-1, 3 * vision.patch_size**2)

    def tables(self, positions_ABS: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.tables_of_rows(positions_ABS, None)

    def tables_of_rows(
        self, positions_ABS: np.ndarray, prompt_lengths_B: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """cos and sin (B, S, H), the base raised for rows longer than trained, by the length of their prompt.

        As the published code has it: not in training, and an answer goes on with the base of its prompt.
        """
        config, positions_BS = self.config, positions_ABS[0]
        lengths = np.ones((1, 1))
        if config.use_dynamic_ntk and not self.training:
            lengths = (
                sequence_lengths(positions_BS) if prompt_lengths_B is None else prompt_lengths_B[:, None]
            )
        alphas_BS = np.broadcast_to(ntk_alpha(lengths, config.seq_length), positions_BS.shape)
        H = config.head_dim

        def base_of(alpha: float) -> float:
            return config.rotary_emb_base * float(alpha) ** (H / (H - 2))

        return tables_by_base(positions_BS, alphas_BS, base_of, H)

    def query_scales(self, positions_ABS: np.ndarray) -> np.ndarray | None:
        """Log-n attention beyond the trained length; not in training, as in the published code."""
        if self.training or not self.config.use_logn_attn:
            return None
        return logn_scales(positions_ABS[0], self.config.seq_length)


def picture_places(ids_BS: np.ndarray, start: int, count: int) -> np.ndarray:
    """Indices (C,) into the flattened ids of the places between <img> and </img>, whatever stands there.

    Raises DataError where </img> (start + 1) does not follow after `count` places in the same row.
    """
    rows, columns = np.nonzero(ids_BS == start)
    ends = columns + count + 1
    closed = ends < ids_BS.shape[1]
    closed &= ids_BS[rows, np.minimum(ends, ids_BS.shape[1] - 1)] == start + 1
    if not closed.all():
        raise DataError(
            f"row {rows[~closed][0] + 1} has an <img> (id {start}) without </img> (id {start + 1}) "
            f"{count + 1} places after it; the processor writes pictures so"
        )
    firsts = rows * ids_BS.shape[1] + columns + 1
    return (firsts[:, None] + np.arange(count)).reshape(-1)
