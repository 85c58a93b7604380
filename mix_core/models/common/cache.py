"""The static key/value cache of a decoder: allocated once, written one slot a row and step.

Shapes: B batch, S prompt length, C slots, K key/value heads, H head dim.
A row's tokens fill its slots from 0 on, so rows of unequal length need no padding between prompt and answer.
"""

from __future__ import annotations

import numpy as np
import paddle
from paddle import Tensor

from mix_core.errors import BadInputError
from mix_core.ops.attend_decode import attention_decode
from mix_core.ops.decode_layers import LayerCache, LayerWeights
from mix_core.ops.dtypes import cast, kept_in
from mix_core.ops.shapes import reshape, take_rows


class KVCache:
    """Keys and values of all layers. The model that made it fills it; users only hand it back."""

    def __init__(self, batch_size: int, max_length: int, layers: int, kv_heads: int, head_dim: int) -> None:
        self.batch_size = batch_size
        self.max_length = max_length
        """Slots C of a row: prompt and new tokens together."""
        self.lengths_B = np.zeros(batch_size, np.int32)
        """Slots of each row that hold a token."""
        self.prompt_lengths_B = np.zeros(batch_size, np.int32)
        """Tokens of each row's prompt."""
        self.next_position_B = np.zeros(batch_size, np.int64)
        """Rotary position of each row's next token; after a picture it is not the slot (the rope delta)."""
        self._shape = [batch_size, kv_heads, max_length, head_dim]
        self._first_BK = (np.arange(batch_size * kv_heads) * max_length).reshape(batch_size, kv_heads)
        """First slot of each row and head, in slots of the whole cache."""
        self._keys: list[Tensor | None] = [None] * layers
        self._values: list[Tensor | None] = [None] * layers
        self._rows: Tensor | None = None
        self.weights: list[LayerWeights] = []
        """Of all layers, once they have decoded: to gather them costs as much as a small layer's work."""

    def begin(self, length: int, lengths_B: np.ndarray, next_position_B: np.ndarray) -> None:
        """Start a prompt: rows of `length` places, padded on the right. Layers then call `fill`."""
        B, K, C, _ = self._shape
        if length > C or len(lengths_B) != B:
            raise BadInputError(
                f"{len(lengths_B)} prompts of {length} tokens do not fit a cache of {B} rows of {C}; make a "
                "larger one"
            )
        self.lengths_B = self.prompt_lengths_B = lengths_B.astype(np.int32)
        self.next_position_B = next_position_B
        # slots after the prompt repeat its last place: they are overwritten before they are attended
        token_BC = np.arange(B)[:, None] * length + np.minimum(np.arange(C), length - 1)
        self._rows = paddle.to_tensor((token_BC[:, None] * K + np.arange(K)[:, None]).reshape(-1))

    def fill(self, layer: int, k_TKH: Tensor, v_TKH: Tensor) -> None:
        """Keep the prompt's keys and values of one layer, T = B * S of them.

        They are kept in float32 where the device cannot write single rows of a narrower dtype.
        """
        H = self._shape[3]
        dtype = kept_in(k_TKH.dtype, "scatter")
        self._keys[layer] = cast(take_rows(reshape(k_TKH, [-1, H]), self._rows), dtype)
        self._values[layer] = cast(take_rows(reshape(v_TKH, [-1, H]), self._rows), dtype)

    def attend(self, layer: int, q_BNH: Tensor) -> Tensor:
        """Attention of a token each row over all that the cache holds of one layer, (B, N, H)."""
        keys_BKCH, values_BKCH = (reshape(kept[layer], self._shape) for kept in (self._keys, self._values))
        out = attention_decode(cast(q_BNH, keys_BKCH.dtype), keys_BKCH, values_BKCH, lengths_B=self.lengths_B)
        return cast(out, q_BNH.dtype)

    def advance(self) -> np.ndarray:
        """Open the next slot of each row; return the rotary positions of the tokens in them, (B,)."""
        longest = int(self.lengths_B.max())
        if not longest or longest == self.max_length:
            raise BadInputError(
                f"the cache holds {longest} of {self.max_length} tokens; prefill it first, or make it larger"
            )
        self._rows = paddle.to_tensor((self._first_BK + self.lengths_B[:, None]).reshape(-1))
        self.lengths_B = self.lengths_B + 1
        positions_B = self.next_position_B
        self.next_position_B = positions_B + 1
        return positions_B

    def of_layers(self) -> list[LayerCache]:
        """What `ops.decode_layers` reads and writes, once `advance` has opened the slots."""
        rows = zip(self._keys, self._values)
        return [LayerCache(keys, values, self.lengths_B, self._rows) for keys, values in rows]
