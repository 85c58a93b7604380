"""Samplers and the forward process: exact where the model is, the same for arrays of both kinds."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest

from mix_core.schedulers import latent_noise, make_scheduler, perturbed, training_noise

LATENT = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
SETTINGS: dict[str, dict[str, Any]] = {
    "ddpm": LATENT,
    "ddim": LATENT,
    "pndm": {**LATENT, "skip_prk_steps": True, "set_alpha_to_one": True},
    "euler": LATENT,
    "dpm++": LATENT,
    "flow": {"shift": 3.0},
}
SHAPE = (4, 6, 6)


def clean(count: int = 2) -> np.ndarray:
    return np.random.default_rng(5).standard_normal((count, *SHAPE)).astype(np.float32)


def oracle(scheduler: Any, sample: np.ndarray, target: np.ndarray, i: int, walk: Any) -> np.ndarray:
    """What a model gives that knows the clean sample behind the noisy one."""
    if scheduler.class_name.startswith("Flow"):
        return (sample - target) / walk.sigmas[i]
    if scheduler.class_name.startswith("Euler"):
        noise, level = (sample - target) / walk.sigmas[i], walk.sigmas[i] ** 2
        left = 1 / (1 + level)
        signal, amount = np.sqrt(left), np.sqrt(1 - left)
        scaled = sample * signal
    else:
        left = scheduler.alphas_cumprod[int(walk.timesteps[i])]
        signal, amount, scaled = np.sqrt(left), np.sqrt(1 - left), sample
        noise = (scaled - signal * target) / amount
    if scheduler.config.prediction_type == "epsilon":
        return noise
    if scheduler.config.prediction_type == "sample":
        return target
    return signal * noise - amount * target


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("kind", SETTINGS)
def test_a_model_that_knows_the_sample_leads_every_sampler_to_it(kind: str, prediction: str) -> None:
    if (kind, prediction) in (("pndm", "sample"), ("flow", "sample"), ("flow", "v_prediction")):
        return  # refused, or the flow's own velocity
    scheduler = make_scheduler(kind, {**SETTINGS[kind], "prediction_type": prediction})
    walk = scheduler.trajectory(12)
    target = clean()
    sample = latent_noise(SHAPE, 1, 2) * np.float32(walk.init_sigma)
    for i in range(len(walk.timesteps)):
        noise = latent_noise(SHAPE, 2 + i, 2) if walk.noisy else None
        sample = walk.step(i, oracle(scheduler, sample, target, i, walk), sample, noise)
    # DDPM's last level keeps a little of its noise, and PNDM follows what the model said some levels before
    limit = {"ddpm": 3e-2, "pndm": 6e-2}.get(kind, 1e-4)
    assert np.abs(sample - target).max() < limit


@pytest.mark.parametrize("kind", SETTINGS)
def test_tensors_walk_as_arrays_do(kind: str) -> None:
    scheduler = make_scheduler(kind, {**SETTINGS[kind], "clip_sample": kind in ("ddpm", "ddim")})
    walks = scheduler.trajectory(4), scheduler.trajectory(4)
    sample = clean()
    tensor = paddle.to_tensor(sample)
    for i in range(len(walks[0].timesteps)):
        output, noise = latent_noise(SHAPE, i, 2), latent_noise(SHAPE, 100 + i, 2)
        scaled = walks[0].scaled(sample, i)
        np.testing.assert_allclose(walks[1].scaled(tensor, i).numpy(), scaled, rtol=1e-6)
        sample = walks[0].step(i, output, sample, noise)
        tensor = walks[1].step(i, paddle.to_tensor(output), tensor, paddle.to_tensor(noise))
        assert tensor.dtype == paddle.float32
        np.testing.assert_allclose(tensor.numpy(), sample, rtol=1e-5, atol=1e-6)


def test_the_forward_process_takes_a_level_for_each_sample() -> None:
    sample, noise = clean(), latent_noise(SHAPE, 3, 2)
    for kind, levels in (("ddpm", np.array([10, 900])), ("flow", np.array([10, 900]))):
        scheduler = make_scheduler(kind, SETTINGS[kind])
        found = scheduler.add_noise(sample, noise, levels)
        for b in range(2):
            alone = scheduler.add_noise(sample[[b]], noise[[b]], levels[[b]])
            np.testing.assert_array_equal(found[[b]], alone)
        tensors = scheduler.add_noise(paddle.to_tensor(sample), paddle.to_tensor(noise), levels)
        np.testing.assert_allclose(tensors.numpy(), found, rtol=1e-6, atol=1e-7)
        target = scheduler.target(sample, noise, levels)
        np.testing.assert_array_equal(target, noise - sample if kind == "flow" else noise)
    velocity = make_scheduler("ddpm", {**LATENT, "prediction_type": "v_prediction"})
    left = velocity.alphas_cumprod[[10, 900]].reshape(-1, 1, 1, 1)
    expected = np.sqrt(left) * noise - np.sqrt(1 - left) * sample
    np.testing.assert_allclose(
        velocity.target(sample, noise, np.array([10, 900])), expected, rtol=1e-5, atol=1e-6
    )


def test_a_walk_that_replaces_a_part_begins_late() -> None:
    walk = make_scheduler("euler", LATENT).trajectory(20)
    assert [walk.first_step(strength) for strength in (1.0, 0.8, 0.5, 0.0)] == [0, 4, 10, 20]
    picture, noise = clean(), latent_noise(SHAPE, 3, 2)
    np.testing.assert_allclose(walk.noised(picture, noise, 4), picture + walk.sigmas[4] * noise, rtol=1e-6)


@pytest.mark.parametrize("strength", [11 / 12, 0.5])
@pytest.mark.parametrize("kind", ["pndm", "dpm++"])
def test_a_multistep_walk_that_begins_late_needs_no_earlier_outputs(kind: str, strength: float) -> None:
    scheduler = make_scheduler(kind, SETTINGS[kind])
    walk, target = scheduler.trajectory(12), clean()
    first = walk.first_step(strength)
    assert walk.timesteps[first] == scheduler.trajectory(12).timesteps[-round(12 * strength)]
    sample = walk.noised(target, latent_noise(SHAPE, 1, 2), first)
    for i in range(first, len(walk.timesteps)):
        sample = walk.step(i, oracle(scheduler, sample, target, i, walk), sample)
    assert np.abs(sample - target).max() < 6e-2


def test_noise_depends_on_seed_and_place_alone() -> None:
    whole = latent_noise(SHAPE, 7, 3)
    np.testing.assert_array_equal(whole[1:], latent_noise(SHAPE, 7, 2, first=1))
    assert not np.array_equal(whole[0], whole[1])
    assert not np.array_equal(whole, latent_noise(SHAPE, 8, 3))
    assert whole.dtype == np.float32 and abs(whole.std() - 1) < 0.1

    batch = training_noise(SHAPE, 7, 3, [10, 11, 12], offset=0.5)
    np.testing.assert_array_equal(batch[[2, 0]], training_noise(SHAPE, 7, 3, [12, 10], offset=0.5))
    plain = training_noise(SHAPE, 7, 3, [10, 11, 12])
    each = batch - plain  # one number for each channel
    assert np.ptp(each, axis=(2, 3)).max() < 1e-6 and 0.2 < each[..., 0, 0].std() < 1.0

    moved = perturbed(plain, 0.1, 7, 3, [10, 11, 12])
    assert (moved - plain).std() == pytest.approx(0.1, rel=0.1)
    assert perturbed(plain, 0.0, 7, 3, [10, 11, 12]) is plain


def test_the_first_picture_of_seed_0() -> None:
    """The same numbers wherever numpy runs: a change here changes every picture that a seed stands for."""
    np.testing.assert_allclose(latent_noise((3,), 0, 1)[0], GOLDEN, rtol=1e-6)


GOLDEN = np.array([2.9162033, -1.2855403, 0.6468853], np.float32)
