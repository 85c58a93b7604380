"""Euler steps over the noise-to-signal ratio.

Karras et al., 2022 (arXiv 2206.00364), algorithm 1, without its churn and in steps of first order. The walk
keeps samples as ``clean + sigma * noise``; `scaled` brings them to the variance that the model knows.
"""

from __future__ import annotations

import numpy as np

from mix_core.errors import BadInputError
from mix_core.schedulers.config import ScheduleConfig
from mix_core.schedulers.schedule import ONE, Array, NoiseSchedule, Trajectory
from mix_core.schedulers.spacing import check_steps, karras_sigmas, timesteps_at


class Euler(NoiseSchedule):
    class_name = "EulerDiscreteScheduler"

    def trajectory(self, steps: int) -> Trajectory:
        return _Walk(self, steps)


class _Walk(Trajectory):
    def __init__(self, schedule: NoiseSchedule, steps: int) -> None:
        self.config = schedule.config
        sigmas_T = schedule.nonzero_sigmas()
        self.timesteps = _spaced(self.config, steps)
        sigmas = np.interp(self.timesteps, np.arange(len(sigmas_T)), sigmas_T)
        if self.config.use_karras_sigmas:
            sigmas = karras_sigmas(self.config, sigmas[0], sigmas[-1], steps)
            self.timesteps = timesteps_at(sigmas, sigmas_T).astype(np.float32)
        last = sigmas_T[0] if self.config.final_sigmas_type == "sigma_min" else 0.0
        self.sigmas = np.append(sigmas, last).astype(np.float32)
        highest = self.sigmas.max()
        whole = self.config.timestep_spacing in ("linspace", "trailing")
        self.init_sigma = float(highest if whole else np.sqrt(np.square(highest) + ONE))

    def scaled(self, sample: Array, i: int) -> Array:
        return sample / float(np.sqrt(np.square(self.sigmas[i]) + ONE))

    def step(self, i: int, output: Array, sample: Array, noise: Array | None = None) -> Array:
        sigma = self.sigmas[i]
        if self.config.prediction_type == "epsilon":
            slope = output
        else:
            slope = (sample - self._clean(output, sample, sigma)) / float(sigma)
        return sample + float(self.sigmas[i + 1] - sigma) * slope

    def _clean(self, output: Array, sample: Array, sigma: np.float32) -> Array:
        if self.config.prediction_type == "sample":
            return output
        total = np.square(sigma) + ONE
        return float(-sigma / np.sqrt(total)) * output + sample / float(total)

    def noised(self, sample: Array, noise: Array, i: int) -> Array:
        return sample + float(self.sigmas[i]) * noise


def _spaced(config: ScheduleConfig, steps: int) -> np.ndarray:
    """Levels of training from the noisiest down, (steps,) float32, between whole ones where that is even."""
    levels = config.num_train_timesteps
    check_steps(steps, levels)
    if config.timestep_spacing == "linspace":
        return np.linspace(0, levels - 1, steps, dtype=np.float32)[::-1].copy()
    if config.timestep_spacing == "leading":
        found = (np.arange(steps)[::-1] * (levels // steps)).astype(np.float32) + config.steps_offset
        if found[0] >= levels:
            raise BadInputError(
                f"steps_offset = {config.steps_offset} leads {steps} steps to level {found[0]:.0f} of "
                f"{levels}; give fewer steps"
            )
        return found
    return np.arange(levels, 0, -levels / steps).round().astype(np.float32) - ONE
