"""DDPM: ancestral sampling. Ho et al., 2020 (arXiv 2006.11239), algorithm 2 and equation 7."""

from __future__ import annotations

import numpy as np

from mix_core.errors import BadInputError
from mix_core.schedulers.config import ScheduleConfig
from mix_core.schedulers.schedule import ONE, Array, NoiseSchedule, Trajectory, clean_of, shares
from mix_core.schedulers.spacing import spaced

MIN_VARIANCE = np.float32(1e-20)


class DDPM(NoiseSchedule):
    class_name = "DDPMScheduler"

    def trajectory(self, steps: int) -> Trajectory:
        return _Walk(self, steps)


class _Walk(Trajectory):
    noisy = True

    def __init__(self, schedule: NoiseSchedule, steps: int) -> None:
        self.schedule, self.config = schedule, schedule.config
        self.timesteps = spaced(schedule.config, steps)
        refuse_pure_noise(schedule, self.timesteps)

    def step(self, i: int, output: Array, sample: Array, noise: Array | None = None) -> Array:
        left, left_after = self._left(i)
        kept = left / left_after
        added, gone, gone_after = ONE - kept, ONE - left, ONE - left_after
        clean = clipped(clean_of(output, sample, shares(left), self.config.prediction_type), self.config)
        of_clean = float(np.sqrt(left_after) * added / gone)
        of_sample = float(np.sqrt(kept) * gone_after / gone)
        mean = of_clean * clean + of_sample * sample
        if self.timesteps[i] == 0:
            return mean
        if noise is None:
            raise ValueError(f"step {i} of DDPM adds noise, got None")
        return mean + self._deviation(np.maximum(gone_after / gone * added, MIN_VARIANCE), added) * noise

    def noised(self, sample: Array, noise: Array, i: int) -> Array:
        return self.schedule.add_noise(sample, noise, self.timesteps[[i]])

    def _left(self, i: int) -> tuple[np.float32, np.float32]:
        left_T = self.schedule.alphas_cumprod
        last = i + 1 == len(self.timesteps)
        return left_T[self.timesteps[i]], ONE if last else left_T[self.timesteps[i + 1]]

    def _deviation(self, variance: np.float32, added: np.float32) -> float:
        kind = self.config.variance_type
        # "fixed_small_log" is the root of "fixed_small" taken by way of its logarithm
        return float(np.sqrt(added if kind == "fixed_large" else variance))


def clipped(clean: Array, config: ScheduleConfig) -> Array:
    """The clean sample within its range, where the file asks for it."""
    if not config.clip_sample:
        return clean
    return clean.clip(-config.clip_sample_range, config.clip_sample_range)


def refuse_pure_noise(schedule: NoiseSchedule, timesteps: np.ndarray) -> None:
    """Raises BadInputError where a level without any signal is visited and the model gives its noise."""
    if schedule.alphas_cumprod[timesteps[0]] == 0 and schedule.config.prediction_type == "epsilon":
        raise BadInputError(
            "rescale_betas_zero_snr makes the first step pure noise, whose epsilon tells nothing of the "
            "sample; give a model of v_prediction, or sample with euler or dpm++"
        )
