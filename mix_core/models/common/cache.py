"""The static key/value cache of a decoder: allocated once, written one slot a step.

Shapes: B batch, S prompt length, C slots, K key/value heads, H head dim.
Rows are aligned at the right: prompts of unequal length are padded on the left, and all rows write one slot.
"""

from __future__ import annotations

import numpy as np
import paddle
from paddle import Tensor

from mix_core.errors import BadInputError


class KVCache:
    """Keys and values of all layers. The model that made it fills it; users only hand it back."""

    def __init__(self, batch_size: int, max_length: int, layers: int, kv_heads: int, head_dim: int) -> None:
        self.batch_size = batch_size
        self.max_length = max_length
        """Slots C: prompt and new tokens together."""
        self.length = 0
        """Slots written so far."""
        self.first_B = np.zeros(batch_size, np.int32)
        """First slot that holds a real token; those before are padding."""
        self.next_position_B = np.zeros(batch_size, np.int64)
        """Rotary position of the next token. After a picture it differs from the slot (the rope delta)."""
        self._shape = (batch_size, kv_heads, max_length, head_dim)
        self._keys: list[Tensor | None] = [None] * layers
        self._values: list[Tensor | None] = [None] * layers
        self._rows: Tensor | None = None

    def begin(self, length: int, first_B: np.ndarray, next_position_B: np.ndarray) -> None:
        """Start a prompt of `length` slots; layers then call `fill`."""
        if length > self.max_length or len(first_B) != self.batch_size:
            raise BadInputError(
                f"{len(first_B)} prompts of {length} tokens do not fit a cache of {self.batch_size} rows of "
                f"{self.max_length}; make a larger one"
            )
        self.length, self.first_B, self.next_position_B = length, first_B, next_position_B

    def fill(self, layer: int, k_BSKH: Tensor, v_BSKH: Tensor) -> None:
        """Keep the prompt's keys and values of one layer."""
        B, K, C, H = self._shape
        rest_BKCH = paddle.zeros([B, K, C - self.length, H], k_BSKH.dtype)
        for kept, new_BSKH in ((self._keys, k_BSKH), (self._values, v_BSKH)):
            slots_BKCH = paddle.concat([new_BSKH.transpose([0, 2, 1, 3]), rest_BKCH], axis=2)
            kept[layer] = slots_BKCH.reshape([B * K * C, H])

    def advance(self) -> np.ndarray:
        """Open the next slot for all rows and return the rotary position of the token in it, (B,)."""
        if not self.length or self.length == self.max_length:
            raise BadInputError(
                f"the cache holds {self.length} of {self.max_length} slots; no token can follow"
            )
        B, K, C, _ = self._shape
        self._rows = paddle.to_tensor(np.arange(B * K) * C + self.length)
        self.length += 1
        positions_B = self.next_position_B
        self.next_position_B = positions_B + 1
        return positions_B

    def append(self, layer: int, k_BKH: Tensor, v_BKH: Tensor) -> tuple[Tensor, Tensor]:
        """Write the open slot of one layer; return its keys and values (B, K, C, H)."""
        B, K, C, H = self._shape
        full = []
        for kept, new_BKH in ((self._keys[layer], k_BKH), (self._values[layer], v_BKH)):
            # rows of a flat matrix: also right where views do not alias (see the profile's slices_alias)
            kept.scatter_(self._rows, new_BKH.reshape([B * K, H]))
            full.append(kept.reshape([B, K, C, H]))
        return full[0], full[1]
