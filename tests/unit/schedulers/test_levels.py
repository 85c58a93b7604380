"""Levels of noise: variances, which of them sampling visits, and their weight in a loss."""

from __future__ import annotations

import numpy as np
import pytest

from mix_core.errors import BadInputError, ConfigError
from mix_core.schedulers import NoiseStream, draw_levels, flow_weights, make_scheduler, min_snr_weights
from mix_core.schedulers.weights import SCHEMES

LATENT = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}


def test_what_is_left_of_a_sample_is_the_product_of_what_each_level_keeps() -> None:
    left = make_scheduler("ddpm", LATENT).alphas_cumprod
    roots = np.linspace(0.00085**0.5, 0.012**0.5, 1000)
    np.testing.assert_allclose(left, np.cumprod(1 - roots**2), rtol=2e-6)
    assert left.dtype == np.float32 and (np.diff(left) < 0).all()


def test_a_zero_terminal_schedule_begins_where_it_did_and_ends_in_pure_noise() -> None:
    before = make_scheduler("ddpm", LATENT).alphas_cumprod
    after = make_scheduler("ddpm", {**LATENT, "rescale_betas_zero_snr": True}).alphas_cumprod
    assert after[0] == pytest.approx(before[0], rel=1e-6) and after[-1] == 0
    assert (after[1:] < before[1:]).all()


def test_levels_by_spacing() -> None:
    def visited(kind: str, steps: int, **options: object) -> list[float]:
        return make_scheduler(kind, {**LATENT, **options}).trajectory(steps).timesteps.tolist()

    assert visited("ddim", 5, timestep_spacing="leading", steps_offset=1) == [801, 601, 401, 201, 1]
    assert visited("ddim", 4, timestep_spacing="trailing") == [999, 749, 499, 249]
    assert visited("ddim", 4, timestep_spacing="linspace") == [999, 666, 333, 0]
    assert visited("euler", 3, timestep_spacing="linspace") == [999, 499.5, 0]
    assert visited("pndm", 4, skip_prk_steps=True) == [750, 500, 500, 250, 0]
    assert visited("dpm++", 3, timestep_spacing="linspace") == [999, 666, 333]
    flow = make_scheduler("flow", {"shift": 3.0}).trajectory(4)
    assert flow.timesteps[0] == 1000 and flow.sigmas[-1] == 0 and (np.diff(flow.sigmas) < 0).all()


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_min_snr_weighs_each_sample_by_its_own_level(prediction: str) -> None:
    snr = np.array([0.0, 0.1, 5.0, 400.0], np.float32)
    found = min_snr_weights(snr, 5.0, prediction)
    expected = {
        "epsilon": [1, 1, 1, 5 / 400],
        "v_prediction": [0, 0.1 / 1.1, 5 / 6, 5 / 401],
        "sample": [0, 0.1, 5, 5],
    }[prediction]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_levels_of_a_flow_are_drawn_by_their_density() -> None:
    drawn = {scheme: draw_levels(scheme, NoiseStream(1), 20_000) for scheme in SCHEMES}
    for scheme in ("none", "sigma_sqrt", "cosmap"):
        np.testing.assert_array_equal(drawn[scheme], drawn["none"])
        np.testing.assert_allclose(np.quantile(drawn[scheme], [0.25, 0.75]), [0.25, 0.75], atol=0.01)
    quartile = 1 / (1 + np.exp(0.6745))  # of a standard normal number
    np.testing.assert_allclose(
        np.quantile(drawn["logit_normal"], [0.25, 0.75]), [quartile, 1 - quartile], atol=0.01
    )
    middle = np.abs(drawn["mode"] - 0.5) < 0.25
    assert 0.55 < middle.mean() < 0.75 and drawn["mode"].min() >= 0 and drawn["mode"].max() <= 1
    towards_clean = draw_levels("logit_normal", NoiseStream(1), 5000, logit_mean=-1)
    flow = make_scheduler("flow", {"shift": 1.0})
    assert flow.sigmas[flow.levels(towards_clean)].mean() < 0.35
    assert flow.sigmas[flow.levels([0.0, 0.5, 1.0])].tolist() == pytest.approx([0.001, 0.501, 1.0])


def test_weights_of_a_flow() -> None:
    sigmas = np.linspace(0.01, 0.99, 99, dtype=np.float32)
    weights = flow_weights("cosmap", sigmas)
    assert weights.mean() == pytest.approx(1, abs=0.02) and weights.argmax() == 49  # it is a density
    for scheme in ("none", "sigma_sqrt", "logit_normal", "mode"):
        assert (flow_weights(scheme, sigmas) == 1).all()
    with pytest.raises(ConfigError, match="weighting_scheme is 'sigma', expected one of none, sigma_sqrt"):
        flow_weights("sigma", sigmas)


@pytest.mark.parametrize(
    "kind,steps,source,says",
    [
        ("ddim", 1001, LATENT, "1001 steps is not possible; the schedule has 1 to 1000"),
        ("euler", 0, LATENT, "0 steps is not possible"),
        ("ddim", 1000, {**LATENT, "steps_offset": 1}, "leads 1000 steps to level 1000 of 1000"),
        ("pndm", 20, LATENT, "PNDM with skip_prk_steps = False"),
        ("pndm", 1, {**LATENT, "skip_prk_steps": True}, "PNDM needs 2 steps or more"),
        ("flow", 8, {"use_dynamic_shifting": True}, "depends on the picture's tokens, got none"),
        (
            "ddim",
            8,
            {**LATENT, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
            "the first step pure noise, whose epsilon tells nothing",
        ),
    ],
)
def test_walks_that_cannot_be_made(kind: str, steps: int, source: dict, says: str) -> None:
    with pytest.raises(BadInputError, match=says):
        make_scheduler(kind, source).trajectory(steps)
