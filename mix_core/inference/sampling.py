"""The next token of each row, and the random numbers for it, which do not depend on the batch.

Shapes: B batch, S sequence, V vocabulary.
A row's numbers are keyed by the seed and by its own prompt, and counted by step. So a conversation gets the
same answer alone, in any batch and at any place in it, while equal prompts in one batch get different ones.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter

import numpy as np
from paddle import Tensor

from mix_core import ops
from mix_core.errors import BadInputError, RunFailedError
from mix_core.ops.dtypes import widened
from mix_core.ops.philox import philox4x32, uniform


def row_keys(input_ids_BS: np.ndarray, attention_mask_BS: np.ndarray, seed: int) -> np.ndarray:
    """A key for each row, (B, 2) uint32.

    It comes from the seed, the row's tokens without padding, and how many equal rows stand before it.
    """
    seen: Counter[bytes] = Counter()
    keys_B2 = np.zeros((len(input_ids_BS), 2), np.uint32)
    for row, (ids_S, mask_S) in enumerate(zip(input_ids_BS, attention_mask_BS)):
        prompt = np.ascontiguousarray(ids_S[mask_S.astype(bool)], np.int64).tobytes()
        origin = f"{seed}:{seen[prompt]}:".encode() + prompt
        keys_B2[row] = np.frombuffer(hashlib.blake2b(origin, digest_size=8).digest(), "<u4")
        seen[prompt] += 1
    return keys_B2


def uniforms(keys_B2: np.ndarray, step: int) -> np.ndarray:
    """One number in [0, 1) for each row at this step, (B,) float32."""
    counters = np.zeros((len(keys_B2), 4), np.uint32)
    counters[:, 0] = step
    return uniform(philox4x32(counters, keys_B2)[:, 0])


class Sampler:
    """Chooses a token for each row of a batch, step by step.

    Args:
        temperature: 0 takes the most likely token; otherwise logits are divided by it before the draw.
        top_k: draw from the k most likely tokens; 0 means all.
        top_p: of those keep the fewest whose probabilities reach this sum; 1 means all.
    Raises:
        BadInputError: a value outside its range.
    """

    def __init__(
        self, keys_B2: np.ndarray, *, temperature: float = 0.0, top_k: int = 0, top_p: float = 1.0
    ) -> None:
        for name, value, fits, expected in (
            (
                "temperature",
                temperature,
                temperature >= 0 and math.isfinite(temperature),
                "0 (greedy) or more",
            ),
            ("top_k", top_k, top_k >= 0, "0 (all tokens) or more"),
            ("top_p", top_p, 0 < top_p <= 1, "more than 0 and at most 1 (all tokens)"),
        ):
            if not fits:
                raise BadInputError(f"{name} is {value}, expected {expected}")
        self.keys_B2 = keys_B2
        self.temperature, self.top_k, self.top_p = float(temperature), top_k, top_p

    def pick(self, logits_BV: Tensor, step: int) -> np.ndarray:
        """Token ids (B,) int64.

        Raises:
            RunFailedError: the logits after the prompt are not finite.
        """
        # on the host, once a prompt: not every chip can ask what is finite
        if step == 0 and not np.isfinite(widened(logits_BV).numpy()).all():
            raise RunFailedError(
                "the model's logits are not finite: its weights are damaged, or its dtype overflows"
            )
        numbers_B = uniforms(self.keys_B2, step) if self.temperature > 0 else None
        ids_B = ops.sampling(
            logits_BV,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            uniform_B=numbers_B,
        )
        return ids_B.numpy()
