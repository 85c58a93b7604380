"""DDIM: deterministic sampling, or with a part of DDPM's noise.

Song et al., "Denoising Diffusion Implicit Models", 2021 (arXiv 2010.02502), equations 12 and 16.
"""

from __future__ import annotations

import numpy as np

from mix_core.schedulers.ddpm import clipped, refuse_pure_noise
from mix_core.schedulers.schedule import ONE, Array, NoiseSchedule, Trajectory, clean_of, noise_of, shares
from mix_core.schedulers.spacing import spaced


class DDIM(NoiseSchedule):
    class_name = "DDIMScheduler"

    def trajectory(self, steps: int, eta: float = 0.0) -> Trajectory:
        """`eta`: share of DDPM's noise, 0 (none) to 1."""
        return _Walk(self, steps, eta)


def left_after(schedule: NoiseSchedule, timestep: int, steps: int) -> np.float32:
    """What is left of a sample's variance one step on, a fixed number of levels below `timestep`."""
    config = schedule.config
    after = timestep - config.num_train_timesteps // steps
    if after >= 0:
        return schedule.alphas_cumprod[after]
    return ONE if config.set_alpha_to_one else schedule.alphas_cumprod[0]


class _Walk(Trajectory):
    def __init__(self, schedule: NoiseSchedule, steps: int, eta: float) -> None:
        self.schedule, self.config, self.eta = schedule, schedule.config, eta
        self.timesteps = spaced(schedule.config, steps)
        refuse_pure_noise(schedule, self.timesteps)
        self.noisy = eta > 0

    def step(self, i: int, output: Array, sample: Array, noise: Array | None = None) -> Array:
        timestep = int(self.timesteps[i])
        left = self.schedule.alphas_cumprod[timestep]
        after = left_after(self.schedule, timestep, len(self.timesteps))
        now, kind = shares(left), self.config.prediction_type
        clean = clipped(clean_of(output, sample, now, kind), self.config)
        variance = (ONE - after) / (ONE - left) * (ONE - left / after)
        deviation = np.float32(self.eta) * np.sqrt(variance)
        towards = float(np.sqrt(ONE - after - np.square(deviation)))
        before = float(np.sqrt(after)) * clean + towards * noise_of(output, sample, now, kind)
        if not self.noisy:
            return before
        if noise is None:
            raise ValueError(f"step {i} of DDIM with eta = {self.eta} adds noise, got None")
        return before + float(deviation) * noise

    def noised(self, sample: Array, noise: Array, i: int) -> Array:
        return self.schedule.add_noise(sample, noise, self.timesteps[[i]])
