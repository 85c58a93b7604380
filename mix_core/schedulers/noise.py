"""Noise drawn on the host, so that a seed gives the same picture whatever the device.

Philox (Salmon et al., 2011) is keyed by the seed and counts from the place that is drawn for: what one
picture or one training sample gets does not depend on its batch.

Shapes: B pictures or samples, C channels, `...` axes of one of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def noise_generator(seed: int, *place: int) -> np.random.Generator:
    """A generator for one place: up to three numbers, such as step and sample, each below 2^64."""
    counter = [0, *place, *[0] * (3 - len(place))]
    return np.random.Generator(np.random.Philox(key=[seed & (2**64 - 1), 0], counter=counter))


def latent_noise(shape: Sequence[int], seed: int, count: int, first: int = 0) -> np.ndarray:
    """Standard normal numbers for pictures `first` to `first + count` of a seed, (count, *shape) float32."""
    return np.stack(
        [noise_generator(seed, first + i).standard_normal(tuple(shape), np.float32) for i in range(count)]
    )


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
        generator = noise_generator(seed, step, int(sample))
        noise = generator.standard_normal(tuple(shape), np.float32)
        if offset:
            each = generator.standard_normal((shape[0], *[1] * (len(shape) - 1)), np.float32)
            noise += np.float32(offset) * each
        drawn.append(noise)
    return np.stack(drawn)


def perturbed(noise: np.ndarray, amount: float, seed: int, step: int, samples: Sequence[int]) -> np.ndarray:
    """`noise` (B, ...) with `amount` of other noise: what a noisy sample is made of, while the target stays.

    Ning et al., "Input Perturbation Reduces Exposure Bias in Diffusion Models", 2023 (arXiv 2301.11706):
    0.1; the key `input_perturbation`.
    """
    if not amount:
        return noise
    more = [
        noise_generator(seed, step, int(sample), 1).standard_normal(noise.shape[1:], np.float32)
        for sample in samples
    ]
    return noise + np.float32(amount) * np.stack(more)
