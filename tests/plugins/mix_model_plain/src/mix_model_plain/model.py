"""The model of the family: the shared decoder with one axis of positions.

Shapes: B batch, S sequence, D model dim, H head dim, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
from paddle import Tensor

from mix_core import ops
from mix_core.models.common.causal_lm import Batch, CausalLM
from mix_core.models.common.decoder import DecoderShape
from mix_model_plain import PlainConfig


class Plain(CausalLM):
    def __init__(self, config: PlainConfig) -> None:
        shape = DecoderShape(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            layers=config.num_hidden_layers,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=config.hidden_size // config.num_attention_heads,
            eps=config.rms_norm_eps,
            qkv_bias=False,
            attention_dropout=0.0,
        )
        super().__init__(shape, tied=config.tie_word_embeddings)
        self.config = config

    def forward(self, input_ids: Any, attention_mask: Any = None) -> Tensor:
        """Logits (B, S, V) of token ids (B, S)."""
        return self.logits(dict(input_ids=input_ids, attention_mask=attention_mask))

    def embed(self, batch: Batch) -> Tensor:
        return self.model.embed_tokens(paddle.to_tensor(batch["input_ids"].reshape(-1)))

    def place(self, batch: Batch) -> np.ndarray:
        ids_BS = batch["input_ids"]
        tokens_BS = np.asarray(batch.get("attention_mask", np.ones_like(ids_BS)))
        return np.maximum(np.cumsum(tokens_BS, axis=1) - 1, 0)[None]

    def tables(self, positions_ABS: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return ops.rotary_tables_1d(positions_ABS[0], self.model.shape.head_dim, self.config.rope_theta)
