"""The variances of a schedule and what follows from them, one number for each level of training.

Ho et al., "Denoising Diffusion Probabilistic Models", 2020 (arXiv 2006.11239). Everything is float32, as the
published models were trained and are sampled: between neighbouring levels 1 - alpha loses most of its digits,
so float64 would give other trajectories.

Shapes: T levels of training.
"""

from __future__ import annotations

import math

import numpy as np

from mix_core.schedulers.config import ScheduleConfig

MAX_COSINE_BETA = 0.999


def betas_of(config: ScheduleConfig) -> np.ndarray:
    """The variance that each level adds, (T,) float32."""
    levels = config.num_train_timesteps
    if config.trained_betas is not None:
        betas = np.array(config.trained_betas, np.float32)
    elif config.beta_schedule == "linear":
        betas = linspace32(config.beta_start, config.beta_end, levels)
    elif config.beta_schedule == "scaled_linear":
        betas = np.square(linspace32(config.beta_start**0.5, config.beta_end**0.5, levels))
    else:
        betas = cosine_betas(levels)
    return zero_terminal_snr(betas) if config.rescale_betas_zero_snr else betas


def cosine_betas(levels: int) -> np.ndarray:
    """Nichol and Dhariwal, "Improved DDPM", 2021, equation 17 -> (levels,) float32."""

    def kept(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [1 - kept((i + 1) / levels) / kept(i / levels) for i in range(levels)]
    return np.minimum(betas, MAX_COSINE_BETA).astype(np.float32)


def linspace32(start: float, end: float, count: int) -> np.ndarray:
    """Evenly spaced numbers in float32 arithmetic, counted from the nearer end."""
    first, last = np.float32(start), np.float32(end)
    step = (last - first) / np.float32(count - 1)
    places = np.arange(count, dtype=np.float32)
    rising = first + step * places
    falling = last - step * places[::-1]
    return np.where(np.arange(count) < count // 2, rising, falling)


def alphas_cumprod_of(betas: np.ndarray) -> np.ndarray:
    """How much of a sample's variance is left at each level, (T,) float32."""
    alphas = np.float32(1) - betas
    return np.cumprod(alphas, dtype=np.float64).astype(np.float32)


def zero_terminal_snr(betas: np.ndarray) -> np.ndarray:
    """Rescale a schedule so that its last level is pure noise, (T,) -> (T,).

    Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed", 2023 (arXiv 2305.08891),
    algorithm 1: shift the roots of what is left to end at 0, stretch them to begin where they did.
    """
    roots = np.sqrt(alphas_cumprod_of(betas))
    first, last = roots[0], roots[-1]
    roots = (roots - last) * (first / (first - last))
    left = np.square(roots)
    alphas = np.concatenate([left[:1], left[1:] / left[:-1]])
    return np.float32(1) - alphas


def sigmas_of(alphas_cumprod: np.ndarray) -> np.ndarray:
    """Noise over signal at each level, (T,) float32."""
    return np.sqrt((np.float32(1) - alphas_cumprod) / alphas_cumprod)
