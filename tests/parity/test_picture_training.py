"""Training steps of Stable Diffusion 1.5, SDXL and SD3 beside the same steps in torch with diffusers' parts.

Levels, noise and what is sampled of the autoencoder are drawn once and given to both; everything else is each
side's own: encoders, noising, target, weights, mean over the batch, clipping, AdamW.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")

import diffusers
import torch
from diffusers.training_utils import compute_loss_weighting_for_sd3, compute_snr

from mix_core.config import RunConfig
from mix_core.inference.text_to_image.sources import FolderSource
from mix_core.schedulers import NoiseStream, draw_levels, training_noise
from mix_core.schedulers.flow import FlowEuler
from mix_core.training.freeze import freeze
from mix_core.training.loop import Stepper
from mix_core.training.optimizer import AdamW
from mix_core.training.pictures.folders import load_parts, published_name
from mix_core.training.pictures.model import PictureLearner
from mix_core.training.pictures.objective import objective_of, trained_schedule
from mix_core.training.pictures.operations import PictureCounter
from mix_core.training.schedule import schedule_of
from mix_core.training.stream import StepBatches
from tests.parity.picture_peer import NOISE, make_whole_pipeline

LIMIT = 1e-4
STEPS, SEED, RATE = 3, 5, 1e-4
PROMPTS = ["a handwritten seven", "", "the old harbour at night"]
KEYS: dict[str, dict[str, Any]] = {
    "sd15": {"snr_gamma": 5.0, "noise_offset": 0.1},
    "sdxl": {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "snr_gamma": 5.0},
    "sd3": {"weighting_scheme": "cosmap"},
}


def batch(step: int) -> dict[str, Any]:
    rng = np.random.default_rng(step)
    return {
        "pixels": rng.uniform(-1, 1, (3, 3, 32, 32)).astype(np.float32),
        "prompts": PROMPTS,
        "sample_ids": np.arange(3) + 10 * step,
        "labels": np.zeros(3, np.int64),
        "time_ids": np.array(
            [[64, 48, 0, 3, 32, 32], [32, 32, 0, 0, 32, 32], [40, 32, 4, 0, 32, 32]], np.float32
        ),
    }


def our_losses(folder: Path, kind: str) -> tuple[list[float], FlowEuler | None]:
    config = RunConfig(**KEYS[kind], learning_rate=RATE, lr_scheduler_type="constant", seed=SEED)
    pictures = load_parts(FolderSource(folder), None)
    model = PictureLearner(pictures, objective_of(config, pictures.scheduler))
    freeze(model, config, published_name)
    part = f"{model.family.part}."
    for name, parameter in model.named_parameters():
        parameter.stop_gradient = not published_name(name).startswith(part)
    model.settle()
    options = {"max_grad_norm": 1.0, "seed": SEED, "counter": PictureCounter(pictures.geometry, model)}
    stepper = Stepper(model, AdamW(model), schedule_of(config, STEPS), **options)
    losses = []
    for step in range(1, STEPS + 1):
        given = StepBatches([batch(step)], tokens=3, epoch=0.0, ends_epoch=False)
        losses.append(stepper.take(step, given, 0.0, 0.0).loss)
    flow = pictures.scheduler if isinstance(pictures.scheduler, FlowEuler) else None
    if flow is None:
        assert trained_schedule(config, pictures.scheduler).config == model.objective.schedule.config
    return losses, flow


class Theirs:
    """One step after the other in torch."""

    def __init__(self, pipeline: Any, kind: str, flow: FlowEuler | None) -> None:
        self.pipeline, self.kind, self.flow = pipeline, kind, flow
        self.network = pipeline.transformer if kind == "sd3" else pipeline.unet
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=RATE, weight_decay=0.0)
        options = (
            {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"} if kind == "sdxl" else {}
        )
        self.noise = diffusers.DDPMScheduler(**NOISE, **options)

    def step(self, step: int) -> float:
        given = batch(step)
        samples = given["sample_ids"].tolist()
        with torch.no_grad():
            clean = self.latents(given["pixels"], step, samples)
            embeds, pooled = self.told(given["prompts"])
        drawn = training_noise(
            tuple(clean.shape[1:]), SEED, step, samples, KEYS[self.kind].get("noise_offset", 0.0)
        )
        noise = torch.from_numpy(drawn)
        streams = [NoiseStream(SEED, step, one, 2) for one in samples]
        if self.flow is not None:
            u = np.concatenate([draw_levels("cosmap", one, 1) for one in streams])
            sigmas = torch.from_numpy(self.flow.sigmas[self.flow.levels(u)]).reshape(-1, 1, 1, 1)
            noisy = (1 - sigmas) * clean + sigmas * noise
            output = self.network(noisy, embeds, pooled, sigmas.flatten() * 1000, return_dict=False)[0]
            weights = compute_loss_weighting_for_sd3("cosmap", sigmas)
            loss = (weights * (output - (noise - clean)) ** 2).reshape(3, -1).mean(1).mean()
        else:
            levels = torch.tensor([int(one.uniform(1)[0] * 1000) for one in streams])
            noisy = self.noise.add_noise(clean, noise, levels)
            more = {"text_embeds": pooled, "time_ids": torch.from_numpy(given["time_ids"])}
            added = {"added_cond_kwargs": more} if self.kind == "sdxl" else {}
            output = self.network(noisy, levels, embeds, return_dict=False, **added)[0]
            velocity = self.kind == "sdxl"
            target = self.noise.get_velocity(clean, noise, levels) if velocity else noise
            snr = compute_snr(self.noise, levels)
            weights = torch.minimum(snr, torch.full_like(snr, 5.0)) / (snr + 1 if velocity else snr)
            loss = (((output - target) ** 2).mean((1, 2, 3)) * weights).mean()
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        return float(loss.detach())

    def latents(self, pixels: np.ndarray, step: int, samples: list[int]) -> torch.Tensor:
        vae = self.pipeline.vae
        found = vae.encode(torch.from_numpy(pixels)).latent_dist
        shape = tuple(found.mean.shape[1:])
        noise = np.stack([NoiseStream(SEED, step, one, 3).normal(shape) for one in samples])
        z = found.mean + found.std * torch.from_numpy(noise)
        return (z - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor

    def told(self, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor | None]:
        if self.kind == "sd15":
            return self.pipeline.encode_prompt(prompts, "cpu", 1, False)[0], None
        others = {"prompt_2": None, "prompt_3": None} if self.kind == "sd3" else {}
        found = self.pipeline.encode_prompt(prompts, **others, do_classifier_free_guidance=False)
        return found[0], found[2]


@pytest.mark.parametrize("kind", list(KEYS))
def test_losses_of_steps_are_those_of_torch(kind: str, tmp_path: Path) -> None:
    pipeline = make_whole_pipeline(kind, tmp_path)
    found, flow = our_losses(tmp_path, kind)
    theirs = Theirs(pipeline, kind, flow)
    expected = [theirs.step(step) for step in range(1, STEPS + 1)]
    np.testing.assert_allclose(found, expected, rtol=LIMIT)
    assert len(set(np.round(expected, 6))) == STEPS
