"""Euler steps along a rectified flow, as SD3 samples: ``(1 - sigma) * sample + sigma * noise``.

Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis", 2024 (arXiv
2403.03206); Lipman et al., "Flow Matching for Generative Modeling", 2023 (arXiv 2210.02747).

Shapes: B samples, T levels of training, S steps.
"""

from __future__ import annotations

import math

import numpy as np

from mix_core.errors import BadInputError
from mix_core.schedulers.config import ScheduleConfig
from mix_core.schedulers.schedule import ONE, Array, Trajectory, per_sample
from mix_core.schedulers.spacing import check_steps


class FlowEuler:
    """Levels and forward process of a flow; the model gives the velocity ``noise - sample``."""

    class_name = "FlowMatchEulerDiscreteScheduler"

    def __init__(self, config: ScheduleConfig) -> None:
        if config.use_karras_sigmas:
            raise BadInputError("use_karras_sigmas is not built for a flow; set it to false")
        self.config = config
        T = config.num_train_timesteps
        sigmas_T = np.arange(T, 0, -1, dtype=np.float32) / np.float32(T)
        if not config.use_dynamic_shifting:
            shift = np.float32(config.shift)
            sigmas_T = shift * sigmas_T / (ONE + np.float32(config.shift - 1) * sigmas_T)
        self.sigmas = sigmas_T
        """Share of noise at each level of training, (T,) float32, from 1 down."""

    def trajectory(self, steps: int, tokens: int | None = None) -> Trajectory:
        """A walk of so many steps; `tokens` of the picture, where the shift grows with it."""
        return _Walk(self, steps, tokens)

    def levels(self, u_B: np.ndarray) -> np.ndarray:
        """The levels (B,) int64, places in `sigmas`, with this share of noise (0 to 1) before the shift."""
        T = self.config.num_train_timesteps
        return T - 1 - np.clip((np.asarray(u_B) * T).astype(np.int64), 0, T - 1)

    def timesteps(self, levels_B: np.ndarray) -> np.ndarray:
        """What the model is told at these levels, (B,) float32."""
        return self.sigmas[levels_B] * np.float32(self.config.num_train_timesteps)

    def add_noise(self, sample: Array, noise: Array, levels_B: np.ndarray) -> Array:
        """The samples (B, ...) at these levels, each with its noise."""
        sigmas_B = self.sigmas[levels_B]
        return per_sample(sigmas_B, sample) * noise + per_sample(ONE - sigmas_B, sample) * sample

    def target(self, sample: Array, noise: Array, levels_B: np.ndarray) -> Array:
        """What the model learns to give: the velocity, the same at every level."""
        return noise - sample


class _Walk(Trajectory):
    def __init__(self, schedule: FlowEuler, steps: int, tokens: int | None) -> None:
        config = schedule.config
        T = config.num_train_timesteps
        check_steps(steps, T)
        # the ends are those of training, shifted already; published pictures are made with both shifts
        sigmas = np.linspace(float(schedule.sigmas[0]) * T, float(schedule.sigmas[-1]) * T, steps) / T
        if config.use_dynamic_shifting:
            shift = math.exp(_log_shift(config, tokens))
            sigmas = shift / (shift + (1 / sigmas - 1))
        else:
            sigmas = config.shift * sigmas / (1 + (config.shift - 1) * sigmas)
        self.sigmas = np.append(sigmas, 0.0).astype(np.float32)
        self.timesteps = self.sigmas[:-1] * np.float32(T)

    def step(self, i: int, output: Array, sample: Array, noise: Array | None = None) -> Array:
        return sample + float(self.sigmas[i + 1] - self.sigmas[i]) * output

    def noised(self, sample: Array, noise: Array, i: int) -> Array:
        sigma = self.sigmas[i]
        return float(sigma) * noise + float(ONE - sigma) * sample

    def first_step(self, strength: float) -> int:
        S = len(self.timesteps)
        return int(max(S - min(S * strength, S), 0))


def _log_shift(config: ScheduleConfig, tokens: int | None) -> float:
    """Linear in the picture's tokens, between the two ends that the configuration names."""
    if tokens is None:
        raise BadInputError(
            "use_dynamic_shifting is set: the shift depends on the picture's tokens, got none"
        )
    slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
    return config.base_shift + slope * (tokens - config.base_image_seq_len)
