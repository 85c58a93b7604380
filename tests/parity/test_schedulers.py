"""Every scheduler beside diffusers' over whole trajectories: levels, samples of each step, forward process.

The model is a function of sample and level that both sides are given; what it gives depends on the sample, so
a difference at one step would grow in those after it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

diffusers = pytest.importorskip("diffusers", reason="live parity needs diffusers")
torch = pytest.importorskip("torch", reason="live parity needs torch")

from mix_core.schedulers import (  # noqa: E402
    KINDS,
    flow_weights,
    load_scheduler,
    make_scheduler,
    min_snr_weights,
    save_scheduler,
)
from tests.parity.agreement import distance  # noqa: E402

LIMIT = 1e-6
"""Relative in norm, at every step."""
EPS = float(np.finfo(np.float32).eps)
"""What a step leaves of its sample is no better than this share of the sample: where a schedule ends in pure
noise, Euler's first step takes nearly all of it away, and how often a sum rounds is the processor's."""
SHAPE = (2, 4, 8, 8)

SD15 = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "trained_betas": None,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
}
"""As published, for the class PNDMScheduler."""
SDXL = {
    **SD15,
    "interpolation_type": "linear",
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "timestep_spacing": "leading",
    "use_karras_sigmas": False,
}
"""As published, for the class EulerDiscreteScheduler."""
SD3 = {"num_train_timesteps": 1000, "shift": 3.0}
"""As published, for the class FlowMatchEulerDiscreteScheduler."""

ZERO = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
CASES: list[tuple[str, int, dict[str, Any]]] = [
    *((kind, 20, SD15) for kind in ("ddpm", "ddim", "pndm", "euler", "dpm++")),
    *((kind, 50, SDXL) for kind in ("ddpm", "ddim", "pndm", "euler", "dpm++")),
    *((kind, 7, {**SDXL, **ZERO}) for kind in ("ddpm", "ddim", "euler", "dpm++")),
    *(
        (kind, 11, {**SDXL, "timestep_spacing": spacing, "prediction_type": "v_prediction"})
        for kind in ("ddpm", "ddim", "pndm", "euler", "dpm++")
        for spacing in ("linspace", "trailing")
    ),
    *((kind, 9, {**SD15, "prediction_type": "sample"}) for kind in ("ddpm", "ddim", "euler", "dpm++")),
    *((kind, 12, {"beta_schedule": "linear"}) for kind in ("ddpm", "ddim", "euler", "dpm++")),
    *((kind, 25, {"beta_schedule": "squaredcos_cap_v2"}) for kind in ("ddpm", "ddim", "euler")),
    ("dpm++", 25, {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1}),
    ("ddpm", 10, {**SD15, "clip_sample": True, "clip_sample_range": 2.0, "variance_type": "fixed_large"}),
    ("ddpm", 10, {**SD15, "variance_type": "fixed_small_log"}),
    ("ddim", 10, {**SD15, "clip_sample": True, "set_alpha_to_one": True}),
    *((kind, 18, {**SDXL, "use_karras_sigmas": True}) for kind in ("euler", "dpm++")),
    *((kind, 8, {**SDXL, "final_sigmas_type": "sigma_min"}) for kind in ("euler", "dpm++")),
    ("dpm++", 14, {**SDXL, "final_sigmas_type": "sigma_min", "lower_order_final": False}),
    ("dpm++", 20, {**SDXL, "solver_type": "heun", "euler_at_final": True, "final_sigmas_type": "sigma_min"}),
    ("dpm++", 6, {**SDXL, "solver_order": 1}),
    *(("flow", steps, SD3) for steps in (4, 28, 50)),
    ("flow", 10, {"shift": 1.0}),
]


def names(case: Any) -> str:
    return f"{case[0]}-{case[1]}"


@pytest.mark.parametrize("case", CASES, ids=names)
def test_a_whole_trajectory(case: tuple[str, int, dict[str, Any]]) -> None:
    kind, steps, source = case
    ours = make_scheduler(kind, source)
    theirs = getattr(diffusers, ours.class_name).from_config(source)
    theirs.set_timesteps(steps)
    walk = ours.trajectory(steps)
    np.testing.assert_allclose(walk.timesteps, theirs.timesteps.numpy(), rtol=3e-7)
    rng = np.random.default_rng(steps)
    sample = rng.standard_normal(SHAPE).astype(np.float32) * np.float32(walk.init_sigma)
    if kind != "flow":
        assert walk.init_sigma == pytest.approx(float(theirs.init_noise_sigma), rel=1e-6)
    expected, limit = torch.tensor(sample), LIMIT
    for i, timestep in enumerate(theirs.timesteps):
        noise = rng.standard_normal(SHAPE).astype(np.float32)
        drawn = rng.standard_normal(SHAPE).astype(np.float32)
        scaled = expected if kind == "flow" else theirs.scale_model_input(expected, timestep)
        found = walk.scaled(sample, i)
        assert distance(found, scaled.numpy()) < limit, f"input of step {i}"
        before = float(np.linalg.norm(sample))
        expected = their_step(
            theirs, 0.8 * torch.tensor(noise) + 0.3 * torch.sin(scaled), timestep, expected, drawn
        )
        sample = walk.step(i, 0.8 * noise + 0.3 * np.sin(found), sample, drawn if walk.noisy else None)
        assert sample.dtype == np.float32
        if source.get("rescale_betas_zero_snr"):
            limit = max(limit, EPS * before / float(np.linalg.norm(sample)))
        assert distance(sample, expected.numpy()) < limit, f"step {i} of {steps}"


def their_step(theirs: Any, output: Any, timestep: Any, sample: Any, noise: np.ndarray) -> Any:
    if not isinstance(theirs, diffusers.DDPMScheduler):
        return theirs.step(output, timestep, sample).prev_sample
    # it takes a generator alone: the noise is put in its place
    module = diffusers.schedulers.scheduling_ddpm
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "randn_tensor", lambda shape, **others: torch.tensor(noise))
        return theirs.step(output, timestep, sample).prev_sample


def test_ddim_with_a_part_of_the_noise() -> None:
    ours, theirs = make_scheduler("ddim", SD15), diffusers.DDIMScheduler.from_config(SD15)
    theirs.set_timesteps(10)
    walk = ours.trajectory(10, eta=0.7)
    rng = np.random.default_rng(0)
    sample = rng.standard_normal(SHAPE).astype(np.float32)
    expected = torch.tensor(sample)
    for i, timestep in enumerate(theirs.timesteps):
        output, noise = (rng.standard_normal(SHAPE).astype(np.float32) for _ in range(2))
        step = theirs.step(
            torch.tensor(output), timestep, expected, eta=0.7, variance_noise=torch.tensor(noise)
        )
        expected, sample = step.prev_sample, walk.step(i, output, sample, noise)
        assert distance(sample, expected.numpy()) < LIMIT


@pytest.mark.parametrize("tokens", [256, 1024, 4096])
def test_a_shift_that_grows_with_the_picture(tokens: int) -> None:
    source = {**SD3, "use_dynamic_shifting": True}
    ours = make_scheduler("flow", source)
    theirs = diffusers.FlowMatchEulerDiscreteScheduler.from_config(source)
    slope = (1.15 - 0.5) / (4096 - 256)
    theirs.set_timesteps(12, mu=0.5 + slope * (tokens - 256))
    walk = ours.trajectory(12, tokens=tokens)
    np.testing.assert_allclose(walk.timesteps, theirs.timesteps.numpy(), rtol=3e-7)
    np.testing.assert_allclose(walk.sigmas, theirs.sigmas.numpy(), rtol=3e-7)


@pytest.mark.parametrize("kind", ["ddpm", "ddim"])
def test_the_forward_process(kind: str) -> None:
    rng = np.random.default_rng(1)
    sample, noise = (rng.standard_normal(SHAPE).astype(np.float32) for _ in range(2))
    timesteps = np.array([3, 999])
    for source in (SD15, {**SDXL, **ZERO}):
        ours = make_scheduler(kind, source)
        theirs = getattr(diffusers, ours.class_name).from_config(source)
        given = torch.tensor(sample), torch.tensor(noise), torch.tensor(timesteps)
        assert distance(ours.add_noise(sample, noise, timesteps), theirs.add_noise(*given).numpy()) < LIMIT
        assert distance(ours.velocity(sample, noise, timesteps), theirs.get_velocity(*given).numpy()) < LIMIT
        np.testing.assert_allclose(ours.alphas_cumprod, theirs.alphas_cumprod.numpy(), rtol=1e-6, atol=1e-9)


def test_the_forward_process_of_a_flow() -> None:
    rng = np.random.default_rng(1)
    sample, noise = (rng.standard_normal(SHAPE).astype(np.float32) for _ in range(2))
    ours = make_scheduler("flow", SD3)
    theirs = diffusers.FlowMatchEulerDiscreteScheduler.from_config(SD3)
    np.testing.assert_allclose(ours.sigmas, theirs.sigmas.numpy(), rtol=3e-7)
    levels = np.array([0, 700])
    expected = theirs.scale_noise(torch.tensor(sample), theirs.timesteps[levels], torch.tensor(noise))
    assert distance(ours.add_noise(sample, noise, levels), expected.numpy()) < LIMIT
    np.testing.assert_allclose(ours.timesteps(levels), theirs.timesteps[levels].numpy(), rtol=3e-7)


@pytest.mark.parametrize("kind", ["ddim", "euler", "dpm++", "flow"])
def test_a_picture_brought_to_the_noise_of_a_step(kind: str) -> None:
    source = SD3 if kind == "flow" else SDXL
    ours = make_scheduler(kind, source)
    theirs = getattr(diffusers, ours.class_name).from_config(source)
    theirs.set_timesteps(20)
    walk = ours.trajectory(20)
    rng = np.random.default_rng(1)
    sample, noise = (rng.standard_normal(SHAPE).astype(np.float32) for _ in range(2))
    for i in (0, 8, 19):
        given = torch.tensor(sample), torch.tensor(noise), theirs.timesteps[[i, i]]
        if kind == "flow":
            expected = theirs.scale_noise(given[0], given[2], given[1])
        else:
            expected = theirs.add_noise(*given)
        assert distance(walk.noised(sample, noise, i), expected.numpy()) < LIMIT


def test_losses_weigh_levels_as_diffusers_does() -> None:
    from diffusers.training_utils import compute_loss_weighting_for_sd3, compute_snr

    ours, theirs = make_scheduler("ddpm", SD15), diffusers.DDPMScheduler.from_config(SD15)
    timesteps = np.array([0, 5, 400, 999])
    snr = compute_snr(theirs, torch.tensor(timesteps))
    np.testing.assert_allclose(ours.snr(timesteps), snr.numpy(), rtol=2e-6)
    capped = torch.stack([snr, 5.0 * torch.ones_like(snr)], dim=1).min(dim=1)[0]
    for prediction, expected in (("epsilon", capped / snr), ("v_prediction", capped / (snr + 1))):
        found = min_snr_weights(ours.snr(timesteps), 5.0, prediction)
        np.testing.assert_allclose(found, expected.numpy(), rtol=2e-6)

    sigmas = np.array([0.05, 0.4, 0.99], np.float32)
    cosmap = compute_loss_weighting_for_sd3("cosmap", torch.tensor(sigmas))
    np.testing.assert_allclose(flow_weights("cosmap", sigmas), cosmap.numpy(), rtol=1e-6)
    # theirs weighs the error in the clean sample, which is sigma times the velocity's
    of_clean = compute_loss_weighting_for_sd3("sigma_sqrt", torch.tensor(sigmas)).numpy()
    np.testing.assert_allclose(flow_weights("sigma_sqrt", sigmas), of_clean * sigmas**2, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_files_go_both_ways(tmp_path: Path, kind: str) -> None:
    source = {"shift": 2.5} if kind == "flow" else {**SD15, "timestep_spacing": "trailing"}
    ours = make_scheduler(kind, source)
    save_scheduler(ours, tmp_path)
    theirs = getattr(diffusers, ours.class_name).from_pretrained(tmp_path)
    written = json.loads((tmp_path / "scheduler_config.json").read_text())
    for key, value in written.items():
        if not key.startswith("_"):
            assert theirs.config[key] == value, key
    theirs.save_pretrained(tmp_path)
    again = load_scheduler(tmp_path)
    save_scheduler(again, tmp_path)
    assert json.loads((tmp_path / "scheduler_config.json").read_text()) == written
