"""Which levels a sampler visits, and at which noise.

Lin et al., 2023 (arXiv 2305.08891), table 2, names the three spacings; Karras et al., "Elucidating the Design
Space of Diffusion-Based Generative Models", 2022 (arXiv 2206.00364), equation 5, has levels of its own.
"""

from __future__ import annotations

import numpy as np

from mix_core.errors import BadInputError
from mix_core.schedulers.config import ScheduleConfig

KARRAS_RHO = 7.0


def check_steps(steps: int, levels: int) -> None:
    """Raises BadInputError where a schedule of so many levels has no such number of steps."""
    if not 1 <= steps <= levels:
        raise BadInputError(f"sampling in {steps} steps is not possible; the schedule has 1 to {levels}")


def spaced(config: ScheduleConfig, steps: int) -> np.ndarray:
    """Training levels from the noisiest down, (steps,) int64. Raises BadInputError."""
    levels = config.num_train_timesteps
    check_steps(steps, levels)
    if config.timestep_spacing == "linspace":
        return np.linspace(0, levels - 1, steps).round()[::-1].astype(np.int64)
    if config.timestep_spacing == "leading":
        found = np.arange(steps)[::-1] * (levels // steps) + config.steps_offset
        if found[0] >= levels:
            raise BadInputError(
                f"steps_offset = {config.steps_offset} leads {steps} steps to level {found[0]} of {levels}; "
                "give fewer steps"
            )
        return found.astype(np.int64)
    return np.round(np.arange(levels, 0, -levels / steps)).astype(np.int64) - 1


def karras_sigmas(config: ScheduleConfig, first: float, last: float, steps: int) -> np.ndarray:
    """Levels of noise from `first` down to `last`, (steps,) float64."""
    low = last if config.sigma_min is None else config.sigma_min
    high = first if config.sigma_max is None else config.sigma_max
    ends = high ** (1 / KARRAS_RHO), low ** (1 / KARRAS_RHO)
    return (ends[0] + np.linspace(0, 1, steps) * (ends[1] - ends[0])) ** KARRAS_RHO


def timesteps_at(sigmas: np.ndarray, sigmas_T: np.ndarray) -> np.ndarray:
    """The training levels, with fractions, that have this noise over signal; logarithms are interpolated."""
    logs_T = np.log(sigmas_T)
    return np.interp(np.log(np.maximum(sigmas, 1e-10)), logs_T, np.arange(len(logs_T)))
