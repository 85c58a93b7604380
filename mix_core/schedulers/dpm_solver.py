"""DPM-Solver++ (2M): a multistep solver of second order for the clean sample.

Lu et al., "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models", 2022 (arXiv
2211.01095), algorithm 2.
"""

from __future__ import annotations

import numpy as np

from mix_core.errors import BadInputError
from mix_core.schedulers.config import ScheduleConfig
from mix_core.schedulers.schedule import ONE, Array, NoiseSchedule, Trajectory, clean_of
from mix_core.schedulers.spacing import check_steps, karras_sigmas, timesteps_at

FEW = 15
"""Below so many steps a last step of second order does more harm than good."""


class DPMSolver(NoiseSchedule):
    class_name = "DPMSolverMultistepScheduler"

    def trajectory(self, steps: int) -> Trajectory:
        return _Walk(self, steps)


class _Walk(Trajectory):
    def __init__(self, schedule: NoiseSchedule, steps: int) -> None:
        self.config = schedule.config
        sigmas_T = schedule.nonzero_sigmas()
        if self.config.use_karras_sigmas:
            check_steps(steps, len(sigmas_T))
            sigmas = karras_sigmas(self.config, float(sigmas_T[-1]), float(sigmas_T[0]), steps)
            levels = timesteps_at(sigmas, sigmas_T)
            cosine = self.config.beta_schedule == "squaredcos_cap_v2"
            self.timesteps = (levels if cosine else levels.round()).astype(np.int64)
        else:
            self.timesteps = _spaced(self.config, steps, sigmas_T)
            sigmas = np.interp(self.timesteps, np.arange(len(sigmas_T)), sigmas_T)
        last = sigmas_T[0] if self.config.final_sigmas_type == "sigma_min" else 0.0
        self.sigmas = np.append(sigmas, last).astype(np.float32)
        self.before: tuple[int, Array] | None = None
        """The step taken last, and the clean sample that it saw."""

    def step(self, i: int, output: Array, sample: Array, noise: Array | None = None) -> Array:
        signal, amount, half_log = self._at(i + 1)
        signal_now, amount_now, half_log_now = self._at(i)
        now = float(signal_now), float(amount_now)
        clean = clean_of(output, sample, now, self.config.prediction_type)
        before, self.before = self.before, (i, clean)
        advance = half_log - half_log_now
        factor = float(signal * (np.exp(-advance) - ONE))
        moved = float(amount / amount_now) * sample - factor * clean
        if before is None or before[0] != i - 1 or self._first_order(i):
            return moved
        ratio = (half_log_now - self._at(i - 1)[2]) / advance
        change = float(ONE / ratio) * (clean - before[1])
        if self.config.solver_type == "midpoint":
            return moved - 0.5 * factor * change
        return moved + float(signal * ((np.exp(-advance) - ONE) / advance + ONE)) * change

    def _first_order(self, i: int) -> bool:
        config, last = self.config, i + 1 == len(self.timesteps)
        few = config.lower_order_final and len(self.timesteps) < FEW
        to_clean = config.final_sigmas_type == "zero"
        return config.solver_order == 1 or (last and (config.euler_at_final or few or to_clean))

    def _at(self, i: int) -> tuple[np.float32, np.float32, np.float32]:
        """Shares of signal and noise at the level of step i, and half the log of their ratio's square."""
        sigma = self.sigmas[i]
        signal = ONE / np.sqrt(np.square(sigma) + ONE)
        amount = sigma * signal
        with np.errstate(divide="ignore"):  # the last level has no noise: infinity
            return signal, amount, np.log(signal) - np.log(amount)

    def noised(self, sample: Array, noise: Array, i: int) -> Array:
        signal, amount, _ = self._at(i)
        return float(signal) * sample + float(amount) * noise


def _spaced(config: ScheduleConfig, steps: int, sigmas_T: np.ndarray) -> np.ndarray:
    """Levels of training from the noisiest down, (steps,) int64; the last step goes from the lowest to 0."""
    T = config.num_train_timesteps
    check_steps(steps, T)
    # half the log signal-to-noise ratio is -log(sigma); what lies below the limit is left out
    usable = int((-np.log(sigmas_T) >= config.lambda_min_clipped).sum())
    if config.timestep_spacing == "linspace":
        return np.linspace(0, usable - 1, steps + 1).round()[:0:-1].astype(np.int64)
    if config.timestep_spacing == "leading":
        found = np.arange(steps, 0, -1) * (usable // (steps + 1)) + config.steps_offset
        if found[0] >= T or usable <= steps:
            raise BadInputError(
                f"spacing 'leading' leads {steps} steps to level {found[0]} of {usable}; give fewer steps"
            )
        return found.astype(np.int64)
    return np.arange(usable, 0, -T / steps).round().astype(np.int64) - 1
