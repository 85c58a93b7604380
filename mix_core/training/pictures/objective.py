"""What a text-to-image model learns of a picture: at which level of noise, to give what, and what it weighs.

All numbers are drawn on the host for seed, step and sample: a sample's loss does not depend on its batch, on
the order of passes or on the device.

Shapes: B samples, C channels, H and W of latents (pixels, where there is no autoencoder).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
import paddle
from paddle import Tensor

from mix_core.errors import ConfigError
from mix_core.ops.dtypes import widened
from mix_core.schedulers import (
    NoiseStream,
    draw_levels,
    flow_weights,
    min_snr_weights,
    perturbed,
    training_noise,
    with_prediction,
)
from mix_core.schedulers.ddim import DDIM
from mix_core.schedulers.files import Scheduler
from mix_core.schedulers.flow import FlowEuler
from mix_core.schedulers.pndm import PNDM
from mix_core.schedulers.schedule import NoiseSchedule

if TYPE_CHECKING:
    from mix_core.config import RunConfig

_LEVEL = 2
"""Place in a sample's noise stream from which its level is drawn; 0 is its noise, 1 the perturbation."""


@dataclass(frozen=True)
class Noised:
    """Samples at their levels, and what is to be learnt of them."""

    inputs: Tensor
    """(B, C, H, W), as the network takes them."""
    timesteps: np.ndarray
    """(B,), as the network is told them."""
    target: Tensor
    """(B, C, H, W), what it should give."""
    weights: np.ndarray
    """(B,) float32, of each sample's mean squared error."""


class Objective(Protocol):
    """What is learnt of clean samples (B, C, H, W) float32."""

    def noised(self, clean: Tensor, seed: int, step: int, samples: Sequence[int]) -> Noised:
        """Draw a level and noise for each sample. `samples`: their numbers, by which they are drawn."""


def weighted_errors(output: Tensor, target: Tensor, weights_B: np.ndarray) -> Tensor:
    """Each sample's mean squared error times its weight, (B,) float32.

    output, target: (B, C, H, W). A weight belongs to its sample alone: the mean over the batch comes last.
    """
    squares = paddle.square(widened(output) - widened(target))
    return paddle.mean(squares, axis=[1, 2, 3]) * paddle.to_tensor(np.asarray(weights_B, np.float32))


@dataclass(frozen=True)
class DiffusionObjective:
    """Noise, velocity or clean sample at an evenly drawn level of a variance schedule.

    Ho et al., "Denoising Diffusion Probabilistic Models", 2020 (arXiv 2006.11239), equation 14; Salimans and
    Ho, 2022 (arXiv 2202.00512) for the velocity; Hang et al., 2023 (arXiv 2303.09556) for `snr_gamma`;
    Guttenberg, "Diffusion with Offset Noise", 2023, for `noise_offset`; Ning et al., 2023 (arXiv 2301.11706)
    for `input_perturbation`; Lin et al., 2023 (arXiv 2305.08891) for a schedule that ends in pure noise.
    """

    schedule: NoiseSchedule
    snr_gamma: float | None = None
    noise_offset: float = 0.0
    input_perturbation: float = 0.0

    def noised(self, clean: Tensor, seed: int, step: int, samples: Sequence[int]) -> Noised:
        """As `Objective.noised`."""
        T = self.schedule.config.num_train_timesteps
        u_B = [NoiseStream(seed, step, int(one), _LEVEL).uniform(1)[0] for one in samples]
        levels_B = np.minimum((np.asarray(u_B) * T).astype(np.int64), T - 1)
        drawn = training_noise(clean.shape[1:], seed, step, samples, self.noise_offset)
        noise = paddle.to_tensor(drawn)
        mixed = paddle.to_tensor(perturbed(drawn, self.input_perturbation, seed, step, samples))
        return Noised(
            self.schedule.add_noise(clean, mixed, levels_B),
            levels_B,
            self.schedule.target(clean, noise, levels_B),
            self.weights(levels_B),
        )

    def weights(self, levels_B: np.ndarray) -> np.ndarray:
        """Of the samples' errors at these levels, (B,) float32."""
        if self.snr_gamma is None:
            return np.ones(len(levels_B), np.float32)
        prediction = self.schedule.config.prediction_type
        return min_snr_weights(self.schedule.snr(levels_B), self.snr_gamma, prediction)


@dataclass(frozen=True)
class FlowObjective:
    """The velocity ``noise - sample`` on the straight way between them.

    Lipman et al., "Flow Matching for Generative Modeling", 2023 (arXiv 2210.02747); Esser et al., 2024 (arXiv
    2403.03206), section 3.1, for the schemes of `weighting_scheme`.
    """

    schedule: FlowEuler
    scheme: str = "logit_normal"
    logit_mean: float = 0.0
    logit_std: float = 1.0
    mode_scale: float = 1.29
    noise_offset: float = 0.0

    def noised(self, clean: Tensor, seed: int, step: int, samples: Sequence[int]) -> Noised:
        """As `Objective.noised`."""
        shape = {"logit_mean": self.logit_mean, "logit_std": self.logit_std, "mode_scale": self.mode_scale}
        streams = [NoiseStream(seed, step, int(one), _LEVEL) for one in samples]
        u_B = np.concatenate([draw_levels(self.scheme, stream, 1, **shape) for stream in streams])
        levels_B = self.schedule.levels(u_B)
        noise = paddle.to_tensor(training_noise(clean.shape[1:], seed, step, samples, self.noise_offset))
        return Noised(
            self.schedule.add_noise(clean, noise, levels_B),
            self.schedule.timesteps(levels_B),
            self.schedule.target(clean, noise, levels_B),
            flow_weights(self.scheme, self.schedule.sigmas[levels_B]),
        )


FLOW_KEYS = ("weighting_scheme", "logit_mean", "logit_std", "mode_scale")
DIFFUSION_KEYS = ("snr_gamma", "prediction_type", "input_perturbation", "rescale_betas_zero_snr")
"""Keys that have a say in one of the two objectives."""


def objective_of(config: RunConfig, scheduler: Scheduler) -> Objective:
    """What a run's keys ask of the model that comes with this scheduler.

    Raises:
        ConfigError: a key has no say in how this model learns.
    """
    flow = isinstance(scheduler, FlowEuler)
    given = [key for key in (DIFFUSION_KEYS if flow else FLOW_KEYS) if key in config.model_fields_set]
    if given and getattr(config, given[0]) not in (None, False, 0.0):
        other = "a flow, whose velocity it gives" if flow else "diffusion, with variances"
        raise ConfigError(f"{given[0]} has no say: the model learns {other}; leave it out")
    if isinstance(scheduler, FlowEuler):
        return FlowObjective(
            scheduler,
            config.weighting_scheme,
            config.logit_mean,
            config.logit_std,
            config.mode_scale,
            config.noise_offset,
        )
    schedule = trained_schedule(config, scheduler)
    return DiffusionObjective(schedule, config.snr_gamma, config.noise_offset, config.input_perturbation)


def trained_schedule(config: RunConfig, scheduler: NoiseSchedule) -> NoiseSchedule:
    """The folder's schedule under the keys that change it: what pictures are sampled with as well.

    Raises:
        ConfigError: noise is to be learnt at a level that is nothing but noise.
    """
    if config.rescale_betas_zero_snr:
        ending = replace(scheduler.config, rescale_betas_zero_snr=True, timestep_spacing="trailing")
        kind = DDIM if isinstance(scheduler, PNDM) else type(scheduler)  # PNDM's file has no such key
        scheduler = kind(ending)
    if config.prediction_type is not None:
        scheduler = with_prediction(scheduler, config.prediction_type)
    if scheduler.config.rescale_betas_zero_snr and scheduler.config.prediction_type == "epsilon":
        raise ConfigError(
            "the schedule ends in pure noise (rescale_betas_zero_snr), where the noise says nothing of the "
            "picture; give prediction_type v_prediction"
        )
    return scheduler
