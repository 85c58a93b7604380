"""PNDM without its Runge-Kutta start, as Stable Diffusion 1.5's published folder asks for (PLMS).

Liu et al., "Pseudo Numerical Methods for Diffusion Models on Manifolds", 2022 (arXiv 2202.09778), equations 9
and 12. The first step is taken twice: as far as the model's output says, then by the mean of the outputs at
its two ends; the model is therefore asked once more often than there are steps. A walk that begins late goes
its first step once.
"""

from __future__ import annotations

import numpy as np

from mix_core.errors import BadInputError
from mix_core.schedulers.ddim import left_after
from mix_core.schedulers.schedule import ONE, Array, NoiseSchedule, Trajectory, noise_of, shares
from mix_core.schedulers.spacing import spaced

_WEIGHTS = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
"""Adams-Bashforth: of the newest output and those before it."""


class PNDM(NoiseSchedule):
    class_name = "PNDMScheduler"

    def trajectory(self, steps: int) -> Trajectory:
        if not self.config.skip_prk_steps or self.config.prediction_type == "sample":
            raise BadInputError(
                f"PNDM with skip_prk_steps = {self.config.skip_prk_steps} and prediction_type = "
                f"{self.config.prediction_type!r} is not built; expected true and epsilon or v_prediction"
            )
        return _Walk(self, steps)


class _Walk(Trajectory):
    def __init__(self, schedule: NoiseSchedule, steps: int) -> None:
        if steps < 2:
            raise BadInputError(f"PNDM needs 2 steps or more, got {steps}")
        self.schedule, self.config, self.steps = schedule, schedule.config, steps
        levels = spaced(schedule.config, steps)
        self.timesteps = np.concatenate([levels[:2], levels[1:]])
        self.stride = schedule.config.num_train_timesteps // steps
        self.outputs: list[Array] = []
        self.began: int | None = None
        self.start: Array = None

    def step(self, i: int, output: Array, sample: Array, noise: Array | None = None) -> Array:
        timestep = int(self.timesteps[i])
        if self.began is None:
            self.began = i
        if self.began == 0 and i == 1:  # again from the start, by the mean of both ends
            mean = 0.5 * (output + self.outputs[0])
            return self._moved(self.start, mean, timestep + self.stride)
        if i == 0:
            self.start = sample
        self.outputs = [output, *self.outputs[:3]]
        weights = _WEIGHTS[len(self.outputs) - 1]
        mean = sum(weight * one for weight, one in zip(weights, self.outputs))
        return self._moved(sample, mean, timestep)

    def _moved(self, sample: Array, output: Array, timestep: int) -> Array:
        left = self.schedule.alphas_cumprod[timestep]
        after = left_after(self.schedule, timestep, self.steps)
        amount = noise_of(output, sample, shares(left), self.config.prediction_type)
        divisor = left * np.sqrt(ONE - after) + np.sqrt(left * (ONE - left) * after)
        return float(np.sqrt(after / left)) * sample - float((after - left) / divisor) * amount

    def first_step(self, strength: float) -> int:
        level = max(self.steps - min(int(self.steps * strength), self.steps), 0)
        return level and level + 1  # the second level stands twice: a late walk begins behind its first place

    def noised(self, sample: Array, noise: Array, i: int) -> Array:
        return self.schedule.add_noise(sample, noise, self.timesteps[[i]])
