"""Weights in and out: safetensors files in the published layout, and random first values."""

from __future__ import annotations

import numpy as np
from paddle import nn

from mix_core.models.common.random import named_generator


def fill_random(model: nn.Layer, seed: int, deviation: float) -> None:
    """Draw every matrix from a normal distribution keyed by seed and name; biases stay 0, norms 1."""
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            values = named_generator(seed, name).standard_normal(parameter.shape, dtype=np.float32)
            parameter.set_value(values * np.float32(deviation))
