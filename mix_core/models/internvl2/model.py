"""InternVL2: the tower beside the decoder; a tile's tokens take the places of its `<IMG_CONTEXT>` tokens.

Shapes: B batch, S sequence, T = B * S tokens, N tiles of all pictures, D model dim, V vocabulary.
Chen et al., "How Far Are We to GPT-4V?", 2024 (arXiv 2404.16821).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn

from mix_core import ops
from mix_core.errors import DataError
from mix_core.models.common.causal_lm import Batch, CausalLM, tables_by_base
from mix_core.models.common.decoder import DecoderShape
from mix_core.models.common.geometry import sequence_lengths
from mix_core.models.common.layers import LayerNorm, Linear
from mix_core.models.common.pieces import Cuts
from mix_core.models.common.random import SampleRandom
from mix_core.models.internvl2.config import INTERNLM2, QKV_BIAS, InternVL2Config
from mix_core.models.internvl2.geometry import ntk_theta
from mix_core.models.internvl2.vision import Draws, VisionModel, pixel_shuffle, stochastic_depth
from mix_core.ops.dtypes import cast
from mix_core.ops.shapes import put_rows

_PROJECTOR_EPS = 1e-5
"""Of the norm before the projector; fixed in the architecture, not in the file."""


class InternVL2(CausalLM):
    """Parameters bear OpenGVLab's names; the decoder is Qwen2's or Llama's."""

    cuts = Cuts(
        blocks="vision_model.encoder.layers.",
        before=("vision_model.embeddings.",),
        after=("mlp1.",),
        decoder="language_model.model.",
        head="language_model.lm_head.",
    )

    decoder_name, head_name = "model", "lm_head"
    """Attributes of `language_model` that hold the decoder and its head."""

    def __init__(self, config: InternVL2Config) -> None:
        text = config.text
        super().__init__(
            DecoderShape.of(text, qkv_bias=QKV_BIAS[text.architecture]), tied=text.tie_word_embeddings
        )
        self.config = config
        self.vision_model = VisionModel(config.vision)
        width = config.vision.hidden_size * config.shuffle**2
        self.mlp1 = nn.LayerDict(
            {
                "0": LayerNorm(width, _PROJECTOR_EPS),
                "1": Linear(width, text.hidden_size, bias=True),
                "3": Linear(text.hidden_size, text.hidden_size, bias=True),
            }
        )
        if config.vision.drop_path_rate and self.random is None:
            self.random = SampleRandom()

    @property
    def model(self) -> nn.Layer:
        return getattr(self.language_model, self.decoder_name)

    @model.setter
    def model(self, decoder: nn.Layer) -> None:
        self.language_model = nn.Layer()
        setattr(self.language_model, self.decoder_name, decoder)

    @property
    def lm_head(self) -> nn.Layer | None:
        return getattr(self.language_model, self.head_name)

    @lm_head.setter
    def lm_head(self, head: nn.Layer | None) -> None:
        setattr(self.language_model, self.head_name, head)

    def forward(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        position_ids: Any = None,
        pixel_values: Any = None,
        img_context_token_id: Any = None,
        cu_seqlens: Any = None,
    ) -> Tensor:
        """Logits (B, S, V). Arguments are numpy arrays or tensors.

        input_ids, attention_mask (B, S); position_ids (1, B, S), counted where absent; pixel_values
        (N, 3, side, side) of all tiles in the order of their tokens; img_context_token_id (1,), which no
        published config.json holds; cu_seqlens (segments + 1,) of one packed row. Raises DataError where
        tiles and their tokens differ.
        """
        given = dict(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            pixel_values=pixel_values,
            img_context_token_id=img_context_token_id,
            cu_seqlens=cu_seqlens,
        )
        return self.logits(given)

    def see(
        self, batch: Batch, x: Tensor | None = None, start: int = 0, stop: int | None = None
    ) -> Tensor | None:
        """The tiles' tokens (N, tokens of a tile, D), or the tower's state on the way there."""
        if "pixel_values" not in batch:
            return None
        pixels, places = self._tiles(batch)
        draws = self._draws(batch, places[:: self.config.num_image_token])
        given = pixels if start == 0 else x
        x_NPD = self.vision_model(given, self.config.select_layer, draws, start, stop)
        return x_NPD if stop is not None else self._projected(x_NPD)

    def join(self, batch: Batch, seen: Tensor | None) -> Tensor:
        """Embeddings (T, D): a row of the matrix for each token, a token of a tile for <IMG_CONTEXT>."""
        x_TD = self.model.embed_tokens(paddle.to_tensor(batch["input_ids"].reshape(-1)))
        if seen is None:
            return x_TD
        _, places = self._tiles(batch)
        return put_rows(x_TD, places, cast(seen.reshape([-1, x_TD.shape[1]]), x_TD.dtype))

    def _tiles(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """The tiles, and the places of their tokens in the flattened batch."""
        pixels = self._checked_pixels(batch["pixel_values"])
        if "img_context_token_id" not in batch:
            raise DataError(
                "pixel_values came without img_context_token_id, the id of <IMG_CONTEXT>; give both"
            )
        token = int(batch["img_context_token_id"].reshape(-1)[0])
        places, each = np.flatnonzero(batch["input_ids"] == token), self.config.num_image_token
        if len(places) != len(pixels) * each:
            raise DataError(
                f"the text has {len(places)} <IMG_CONTEXT> tokens (id {token}) and there are {len(pixels)} "
                f"tiles of {each}; the numbers must agree"
            )
        return pixels, places

    def image_tokens(self, pixels_NCSS: np.ndarray, draws: Draws | None = None) -> Tensor:
        """Tiles -> what the decoder sees of them (N, tokens of a tile, D)."""
        return self._projected(self.vision_model(pixels_NCSS, self.config.select_layer, draws))

    def _projected(self, x_NPD: Tensor) -> Tensor:
        cells = self.mlp1["0"](pixel_shuffle(x_NPD, self.config.shuffle, self.config.ps_version))
        return self.mlp1["3"](ops.gelu(self.mlp1["1"](cells)))

    def _checked_pixels(self, pixels: np.ndarray) -> np.ndarray:
        side = self.config.image_size
        expected = (self.config.vision.num_channels, side, side)
        if pixels.ndim != 4 or pixels.shape[1:] != expected:
            raise DataError(
                f"pixel_values has shape {pixels.shape}, expected (tiles, {', '.join(map(str, expected))})"
            )
        return pixels.astype(np.float32, copy=False)

    def _draws(self, batch: Batch, first_places: np.ndarray) -> Draws | None:
        """Stochastic depth for tiles whose tokens begin at these places of the flattened batch."""
        if not self.training or not self.config.vision.drop_path_rate:
            return None
        if batch.get("cu_seqlens") is not None:
            sample_N = np.searchsorted(batch["cu_seqlens"], first_places, side="right") - 1
        else:
            sample_N = first_places // batch["input_ids"].shape[1]
        return stochastic_depth(self.random, self.vision_model.drop_rates, sample_N)

    def tables(self, positions_ABS: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """cos and sin (B, S, H), with the base that each sequence's length asks for."""
        text, positions_BS = self.config.text, positions_ABS[0]
        trained = text.max_position_embeddings
        if text.ntk_factor is None or positions_BS.max() < trained:
            return ops.rotary_tables_1d(positions_BS, text.head_dim, text.rope_theta)
        lengths_BS = np.maximum(sequence_lengths(positions_BS), trained)

        def base_of(length: float) -> float:
            return ntk_theta(text.rope_theta, text.ntk_factor, int(length), trained, text.head_dim)

        return tables_by_base(positions_BS, lengths_BS, base_of, text.head_dim)


class InternVL2OnInternLM2(InternVL2):
    """InternLM2's published names differ from the shared decoder's: `weights` splits and joins them."""

    decoder_name, head_name = "decoder", "output"
    cuts = replace(InternVL2.cuts, decoder="language_model.decoder.", head="language_model.output.")


def build(config: InternVL2Config) -> InternVL2:
    """The model for the decoder that the configuration names."""
    return (InternVL2OnInternLM2 if config.text.architecture == INTERNLM2 else InternVL2)(config)
