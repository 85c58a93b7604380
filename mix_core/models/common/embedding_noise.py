"""Noise on the embeddings of text in training, which keeps answers from copying the style of the few samples.

Jain et al., "NEFTune: Noisy Embeddings Improve Instruction Finetuning", 2023: each number of a sample's
embedding (L, D) gets a draw from the uniform distribution over (-1, 1), times alpha / sqrt(L * D). L is the
sample's own length, padding and neighbours in a packed row left out, and the draw depends on seed, step,
sample and place alone: neither batch nor packing nor a resume changes it. Pictures replace the embeddings of
their places and so have no noise.

Shapes: S samples, T tokens of the batch, D model dim.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import paddle
from paddle import Tensor

from mix_core.models.common.random import SampleRandom
from mix_core.ops.dtypes import cast
from mix_core.ops.philox import uniform

STREAM = 0xFFFF_FFFF
"""Stands where a layer's number does among the keys of `SampleRandom`."""


class EmbeddingNoise:
    """Adds noise to what an embedding gives for the batch that was placed last."""

    def __init__(self, alpha: float, random: SampleRandom) -> None:
        self.alpha = alpha
        self.random = random
        self._spans: list[tuple[int, int]] = []
        self._tokens = 0

    def place(self, lengths_B: np.ndarray, width: int, cu_seqlens: np.ndarray | None = None) -> None:
        """Say where the samples of the next batch stand, before its tokens are embedded.

        Args:
            lengths_B: tokens of each row; they come before its padding.
            width: of the rows, padding included.
            cu_seqlens: ends of the segments (S + 1,) where the batch is one packed row.
        """
        self._tokens = len(lengths_B) * width
        if cu_seqlens is not None:
            self._spans = [(int(a), int(b)) for a, b in pairwise(cu_seqlens)]
        else:
            self._spans = [(row * width, row * width + int(n)) for row, n in enumerate(lengths_B)]

    def __call__(self, x: Tensor) -> Tensor:
        """Embeddings (..., D) of the whole batch with their noise, in their dtype."""
        D = x.shape[-1]
        if x.size != self._tokens * D:
            raise RuntimeError(
                f"noise was placed for {self._tokens} tokens, the embedding has shape {x.shape}"
            )
        noise_TD = np.zeros((self._tokens, D), np.float32)
        for (start, end), key in zip(self._spans, self.random.keys(STREAM)):
            noise_TD[start:end] = draw(key, end - start, D, self.alpha)
        return x + cast(paddle.to_tensor(noise_TD.reshape(x.shape)), x.dtype)


def draw(key: np.ndarray, length: int, width: int, alpha: float) -> np.ndarray:
    """The noise of one sample (length, width), float32; `key` (2,) uint32.

    Raw words of a counter-based generator: the same on every machine and with every NumPy release.
    """
    if length == 0:
        return np.zeros((0, width), np.float32)
    count = length * width
    words = np.random.Philox(key=key.astype(np.uint64)).random_raw(-(-count // 2)).astype("<u8").view("<u4")
    signed = uniform(words[:count]) * np.float32(2.0) - np.float32(1.0)
    return signed.reshape(length, width) * np.float32(alpha / np.sqrt(count))
