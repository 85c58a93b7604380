"""Noise drawn on the host, so that a seed gives the same picture whatever the device.

Philox (Salmon et al., 2011) is keyed by the seed and counts from the place that is drawn for: what one
picture or one training sample gets does not depend on its batch. Normal numbers are made of its raw words,
which numpy promises to keep, by Box and Muller, "A Note on the Generation of Random Normal Deviates", 1958.

Shapes: B pictures or samples, C channels, `...` axes of one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np


class NoiseStream:
    """Random numbers for one place of a seed: up to three whole numbers, such as step and sample."""

    def __init__(self, seed: int, *place: int) -> None:
        counter = [0, *place, *[0] * (3 - len(place))]
        self._bits = np.random.Philox(key=[seed & (2**64 - 1), 0], counter=counter)

    def normal(self, shape: Sequence[int]) -> np.ndarray:
        """Standard normal numbers of this shape, float32."""
        count = prod(shape)
        words = self._bits.random_raw(-(-count // 2))
        halves = (words >> np.uint64(32)), (words & np.uint64(0xFFFFFFFF))
        u, v = ((half.astype(np.float64) + 0.5) * 2.0**-32 for half in halves)
        radius, angle = np.sqrt(-2 * np.log(u)), 2 * np.pi * v
        both = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
        return both[:count].astype(np.float32).reshape(tuple(shape))

    def uniform(self, count: int) -> np.ndarray:
        """Numbers in [0, 1), (count,) float64."""
        return (self._bits.random_raw(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def latent_noise(shape: Sequence[int], seed: int, count: int, first: int = 0) -> np.ndarray:
    """Standard normal numbers for pictures `first` to `first + count` of a seed, (count, *shape) float32."""
    return np.stack([NoiseStream(seed, first + i).normal(shape) for i in range(count)])


def training_noise(
    shape: Sequence[int], seed: int, step: int, samples: Sequence[int], offset: float = 0.0
) -> np.ndarray:
    """Standard normal numbers for the samples of a training step, (B, C, ...) float32.

    shape: of one sample, channels first. `offset` adds that much of one more number for each channel, so
    that the model learns to change a picture's mean brightness (Guttenberg, "Diffusion with Offset Noise",
    2023: 0.1; the key `noise_offset`).
    """
    drawn = []
    for sample in samples:
        stream = NoiseStream(seed, step, int(sample))
        noise = stream.normal(shape)
        if offset:
            noise += np.float32(offset) * stream.normal((shape[0], *[1] * (len(shape) - 1)))
        drawn.append(noise)
    return np.stack(drawn)


def perturbed(noise: np.ndarray, amount: float, seed: int, step: int, samples: Sequence[int]) -> np.ndarray:
    """`noise` (B, ...) with `amount` of other noise: what a noisy sample is made of, while the target stays.

    Ning et al., "Input Perturbation Reduces Exposure Bias in Diffusion Models", 2023 (arXiv 2301.11706):
    0.1; the key `input_perturbation`.
    """
    if not amount:
        return noise
    more = [NoiseStream(seed, step, int(sample), 1).normal(noise.shape[1:]) for sample in samples]
    return noise + np.float32(amount) * np.stack(more)
