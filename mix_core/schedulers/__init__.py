"""Noise schedules of diffusion and flow models: their levels, what is learnt at them, and samplers.

Numbers live on the host in numpy; samples may be numpy arrays or Paddle tensors. Importing this package
imports no paddle.
"""

from __future__ import annotations

from mix_core.schedulers.files import (
    KINDS,
    check_fits,
    load_scheduler,
    make_scheduler,
    save_scheduler,
    with_prediction,
)
from mix_core.schedulers.noise import NoiseStream, latent_noise, perturbed, training_noise
from mix_core.schedulers.schedule import Trajectory
from mix_core.schedulers.weights import draw_levels, flow_weights, min_snr_weights

__all__ = [
    "KINDS",
    "NoiseStream",
    "Trajectory",
    "check_fits",
    "draw_levels",
    "flow_weights",
    "latent_noise",
    "load_scheduler",
    "make_scheduler",
    "min_snr_weights",
    "perturbed",
    "save_scheduler",
    "training_noise",
    "with_prediction",
]
