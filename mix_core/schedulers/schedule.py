"""A schedule's forward process, what the model learns of it, and the trajectory that samplers walk back.

Samples, noise and model outputs are numpy arrays or Paddle tensors, float32; numbers of the schedule are
worked out on the host and enter as factors.

Shapes: B samples, `...` axes of one; T levels of training; S steps of sampling.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from mix_core.schedulers.betas import alphas_cumprod_of, betas_of, sigmas_of
from mix_core.schedulers.config import ScheduleConfig

Array = Any
"""A numpy array or a Paddle tensor."""
ONE = np.float32(1)


def per_sample(factors_B: np.ndarray, like: Array) -> Array:
    """A factor for each sample of `like` (B, ...), as an array of its kind and dtype."""
    shaped = np.asarray(factors_B, np.float32).reshape(-1, *[1] * (like.ndim - 1))
    if isinstance(like, np.ndarray):
        return shaped.astype(like.dtype)
    import paddle

    return paddle.to_tensor(shaped).astype(like.dtype)


class Trajectory(ABC):
    """One walk from noise to a sample. `step` is called for i = first, first + 1, ... S - 1."""

    timesteps: np.ndarray
    """What the model is told at each step, (S,): int64, or float32 where levels may have fractions."""
    init_sigma: float = 1.0
    """What standard normal noise is multiplied by to begin at step 0."""
    noisy: bool = False
    """Whether `step` takes fresh noise."""

    def scaled(self, sample: Array, i: int) -> Array:
        """The sample as the model takes it at step i."""
        return sample

    @abstractmethod
    def step(self, i: int, output: Array, sample: Array, noise: Array | None = None) -> Array:
        """From the sample (B, ...) of step i and what the model gave for it to the sample of step i + 1."""

    @abstractmethod
    def noised(self, sample: Array, noise: Array, i: int) -> Array:
        """A clean sample (B, ...) brought to the noise of step i, to begin there or to keep a part of it."""

    def first_step(self, strength: float) -> int:
        """Where a walk begins that replaces this much of a picture, 0 to 1 (1: all of it, from step 0)."""
        S = len(self.timesteps)
        return max(S - min(int(S * strength), S), 0)


class NoiseSchedule(ABC):
    """A model's levels of noise: ``sqrt(left) * sample + sqrt(1 - left) * noise``."""

    class_name: str
    """As scheduler_config.json names it."""

    def __init__(self, config: ScheduleConfig) -> None:
        self.config = config
        self.alphas_cumprod = alphas_cumprod_of(betas_of(config))
        """What is left of a sample's variance at each level, (T,) float32."""

    @abstractmethod
    def trajectory(self, steps: int) -> Trajectory:
        """A new walk of so many steps. Raises BadInputError."""

    def add_noise(self, sample: Array, noise: Array, timesteps_B: np.ndarray) -> Array:
        """The samples (B, ...) at these levels, each with its noise. Ho et al., 2020, equation 4."""
        left_B = self.alphas_cumprod[timesteps_B]
        signal, amount = per_sample(np.sqrt(left_B), sample), per_sample(np.sqrt(ONE - left_B), sample)
        return signal * sample + amount * noise

    def velocity(self, sample: Array, noise: Array, timesteps_B: np.ndarray) -> Array:
        """What a model of the velocity learns, (B, ...).

        Salimans and Ho, "Progressive Distillation for Fast Sampling of Diffusion Models", 2022 (arXiv
        2202.00512), section 4.
        """
        left_B = self.alphas_cumprod[timesteps_B]
        signal, amount = per_sample(np.sqrt(left_B), sample), per_sample(np.sqrt(ONE - left_B), sample)
        return signal * noise - amount * sample

    def target(self, sample: Array, noise: Array, timesteps_B: np.ndarray) -> Array:
        """What the model learns to give, by the configuration's prediction_type."""
        if self.config.prediction_type == "epsilon":
            return noise
        if self.config.prediction_type == "sample":
            return sample
        return self.velocity(sample, noise, timesteps_B)

    def snr(self, timesteps_B: np.ndarray) -> np.ndarray:
        """Signal over noise in variance at these levels, (B,) float32."""
        left_B = self.alphas_cumprod[timesteps_B]
        return left_B / (ONE - left_B)

    def nonzero_sigmas(self) -> np.ndarray:
        """Noise over signal at each level, (T,): a last level of pure noise gets the least signal that
        float16 can hold, so that the ratio is a number."""
        left_T = self.alphas_cumprod.copy()
        if self.config.rescale_betas_zero_snr:
            left_T[-1] = 2**-24
        return sigmas_of(left_T)


def shares(left: np.float32) -> tuple[float, float]:
    """What clean sample and noise are multiplied by, where `left` of the sample's variance is left."""
    return float(np.sqrt(left)), float(np.sqrt(ONE - left))


def clean_of(output: Array, sample: Array, at: tuple[float, float], prediction: str) -> Array:
    """The clean sample that the model's output means, at a level with these `shares`."""
    signal, amount = at
    if prediction == "sample":
        return output
    if prediction == "v_prediction":
        return signal * sample - amount * output
    return (sample - amount * output) * (1.0 / signal)


def noise_of(output: Array, sample: Array, at: tuple[float, float], prediction: str) -> Array:
    """The noise that the model's output means, at a level with these `shares`."""
    signal, amount = at
    if prediction == "sample":
        return (sample - signal * output) * (1.0 / amount)
    if prediction == "v_prediction":
        return signal * output + amount * sample
    return output
