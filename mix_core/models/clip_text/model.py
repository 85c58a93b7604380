"""CLIP's text transformer: ViT-L's (SD 1.5, SDXL, SD3) and ViT-bigG's (SDXL, SD3).

Parameters bear the published names. Shapes: B rows, S tokens, D width, P width of the projection, L layers.
Radford et al., 2021 (arXiv 2103.00020); Cherti et al., "Reproducible scaling laws for contrastive
language-image learning", 2022 (arXiv 2212.07143), for bigG.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import paddle
from paddle import Tensor, nn

from mix_core.errors import DataError
from mix_core.models.clip_text.config import LEGACY_EOS, ClipTextConfig
from mix_core.models.common.clip import ClipLayer
from mix_core.models.common.layers import Embedding, LayerNorm, Linear
from mix_core.models.common.recompute import recompute


@dataclass(frozen=True)
class Encoded:
    """What the encoder makes of rows of tokens."""

    hidden_states: tuple[Tensor, ...]
    """The embeddings and what each layer gives, L + 1 of (B, S, D); none is normed at the end."""
    last: Tensor
    """The last of them behind the final norm, (B, S, D)."""
    pooled: Tensor
    """Its vectors at the end tokens: (B, D), or (B, P) behind the projection."""


class Embeddings(nn.Layer):
    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.token_embedding = Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = Embedding(config.max_position_embeddings, config.hidden_size)

    def forward(self, ids_BS: Tensor) -> Tensor:
        return self.token_embedding(ids_BS) + self.position_embedding.weight[: ids_BS.shape[1]]


class Encoder(nn.Layer):
    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.layers = nn.LayerList(
            ClipLayer(
                config.hidden_size,
                config.num_attention_heads,
                config.intermediate_size,
                act=config.hidden_act,
                eps=config.layer_norm_eps,
                causal=True,
            )
            for _ in range(config.num_hidden_layers)
        )


class TextTransformer(nn.Layer):
    """`text_model`."""

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.final_layer_norm = LayerNorm(config.hidden_size, config.layer_norm_eps)


class ClipTextModel(nn.Layer):
    """CLIPTextModel, or CLIPTextModelWithProjection where the configuration says `projected`."""

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.config = config
        self.text_model = TextTransformer(config)
        self.text_projection = (
            Linear(config.hidden_size, config.projection_dim, bias=False) if config.projected else None
        )
        self.recompute = False
        """Whether training keeps each layer's input only."""
        self.random = None
        """Set where adapters draw in training."""

    def forward(self, ids_BS: np.ndarray) -> Encoded:
        """Token ids (B, S) on the host, each row with its begin and end token.

        Padding is not masked: the published models were trained so, and causal order hides it from the text.
        Raises DataError for ids or rows that the model has no place for.
        """
        ends_B = self._ends(np.asarray(ids_BS))
        x_BSD = self.text_model.embeddings(paddle.to_tensor(ids_BS))
        states = [x_BSD]
        for layer in self.text_model.encoder.layers:
            x_BSD = recompute(layer, x_BSD) if self.recompute and self.training else layer(x_BSD)
            states.append(x_BSD)
        last_BSD = self.normed(x_BSD)
        B, S, D = last_BSD.shape
        places_B = paddle.to_tensor(np.arange(B) * S + ends_B)
        pooled = nn.functional.embedding(places_B, last_BSD.reshape([B * S, D]))  # chips have it in bfloat16
        if self.text_projection is not None:
            pooled = self.text_projection(pooled)
        return Encoded(tuple(states), last_BSD, pooled)

    def normed(self, x_BSD: Tensor) -> Tensor:
        """A hidden state behind the final norm."""
        return self.text_model.final_layer_norm(x_BSD)

    def _ends(self, ids_BS: np.ndarray) -> np.ndarray:
        """Where each row is pooled, (B,)."""
        config = self.config
        if ids_BS.ndim != 2 or not 1 <= ids_BS.shape[1] <= config.max_position_embeddings:
            raise DataError(
                f"token ids have shape {ids_BS.shape}, expected (rows, 1 to {config.max_position_embeddings})"
            )
        if ids_BS.min() < 0 or ids_BS.max() >= config.vocab_size:
            raise DataError(
                f"token ids go from {ids_BS.min()} to {ids_BS.max()}, expected below {config.vocab_size}; do "
                "tokenizer and text encoder belong together?"
            )
        if config.eos_token_id == LEGACY_EOS:
            return ids_BS.argmax(axis=1)
        found_BS = ids_BS == config.eos_token_id
        if not found_BS.any(axis=1).all():
            row = int(np.flatnonzero(~found_BS.any(axis=1))[0])
            raise DataError(
                f"row {row} has no end token {config.eos_token_id}; do tokenizer and text encoder belong "
                "together?"
            )
        return found_BS.argmax(axis=1)
