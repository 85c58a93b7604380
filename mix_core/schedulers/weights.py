"""What a level of noise weighs in the loss, and how often it is drawn.

Shapes: B samples.
"""

from __future__ import annotations

import math

import numpy as np

from mix_core.errors import ConfigError
from mix_core.schedulers.noise import NoiseStream

SCHEMES = ("none", "sigma_sqrt", "logit_normal", "mode", "cosmap")
"""Values of the key `weighting_scheme`."""


def min_snr_weights(snr_B: np.ndarray, gamma: float, prediction: str) -> np.ndarray:
    """Weight of each sample's mean squared error, (B,) float32, at its signal-to-noise ratio.

    Hang et al., "Efficient Diffusion Training via Min-SNR Weighting Strategy", 2023 (arXiv 2303.09556),
    section 3.4 (gamma: 5; the key `snr_gamma`): min(snr, gamma) for a model of the sample, divided by snr
    for one of the noise ("epsilon") and by snr + 1 for one of the velocity ("v_prediction"). Where the ratio
    is 0, at the last level of a zero-terminal schedule, the weight of the noise has its limit, 1.
    """
    snr_B = np.asarray(snr_B, np.float32)
    capped_B = np.minimum(snr_B, np.float32(gamma))
    if prediction == "sample":
        return capped_B
    if prediction == "v_prediction":
        return capped_B / (snr_B + np.float32(1))
    if prediction != "epsilon":
        raise ConfigError(
            f"snr_gamma weighs epsilon, v_prediction and sample, not {prediction!r}; leave it out"
        )
    return np.divide(capped_B, snr_B, out=np.ones_like(snr_B), where=snr_B > 0)


def check_scheme(scheme: str) -> None:
    """Raises ConfigError for a name that is none of `SCHEMES`."""
    if scheme not in SCHEMES:
        raise ConfigError(f"weighting_scheme is {scheme!r}, expected one of {', '.join(SCHEMES)}")


def draw_levels(
    scheme: str,
    stream: NoiseStream,
    count: int,
    *,
    logit_mean: float = 0.0,
    logit_std: float = 1.0,
    mode_scale: float = 1.29,
) -> np.ndarray:
    """Numbers in [0, 1], (count,) float64: the share of noise of the levels that are learnt from, before the
    schedule's shift (`FlowEuler.levels`).

    Esser et al., 2024 (arXiv 2403.03206), section 3.1: "logit_normal" has the density of a sigmoid of
    normal numbers (equation 19), "mode" favours the middle (or, below 0, the ends; equation 20). The other
    schemes draw evenly.
    """
    check_scheme(scheme)
    if scheme == "logit_normal":
        return 1 / (1 + np.exp(-(logit_mean + logit_std * stream.normal([count]).astype(np.float64))))
    u = stream.uniform(count)
    if scheme == "mode":
        u = 1 - u - mode_scale * (np.cos(math.pi * u / 2) ** 2 - 1 + u)
    return u


def flow_weights(scheme: str, sigmas_B: np.ndarray) -> np.ndarray:
    """Weight of each sample's mean squared error *in the velocity* at its share of noise, (B,) float32.

    Esser et al., 2024, section 3.1. "cosmap": 2 / (pi - 2 pi s + 2 pi s^2), the density of equation 21 as a
    weight. "sigma_sqrt" is the source scripts' s^-2 for an error in the clean sample; that error is s times
    the one in the velocity, so the weight is 1, as for schemes that change how often a level is drawn.
    """
    check_scheme(scheme)
    sigmas_B = np.asarray(sigmas_B, np.float32)
    if scheme != "cosmap":
        return np.ones_like(sigmas_B)
    return (2 / (math.pi * (1 - 2 * sigmas_B + 2 * np.square(sigmas_B)))).astype(np.float32)
