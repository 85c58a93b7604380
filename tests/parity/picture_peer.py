"""Whole small pipelines of diffusers with random weights, and what they draw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image

from mix_core.inference.text_to_image.noise import Draws
from tests.builders.pipelines import WIDTH, make_pipeline
from tests.parity.diffusion_peer import random_peer

NOISE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
NETWORKS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "sd15": ("unet", "SD 1.5", {"cross_attention_dim": 32}),
    "sdxl": (
        "unet",
        "SDXL",
        {"cross_attention_dim": 72, "projection_class_embeddings_input_dim": 6 * 8 + 40},
    ),
    "sd3": ("transformer", "SD3", {"joint_attention_dim": WIDTH, "pooled_projection_dim": 64}),
}
"""Sub-folder, kind of network, and the widths of `make_pipeline`'s text encoders."""
CLASSES = {
    "sd15": ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"),
    "sdxl": (
        "StableDiffusionXLPipeline",
        "StableDiffusionXLImg2ImgPipeline",
        "StableDiffusionXLInpaintPipeline",
    ),
    "sd3": ("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline", "StableDiffusion3InpaintPipeline"),
}
MODES = ("text", "picture", "mask")


def make_whole_pipeline(kind: str, folder: Path, **changes: Any) -> Any:
    """diffusers' pipeline of text to image with all parts, saved to `folder`; `changes`: of its network."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = make_pipeline(kind, folder)
    part, name, widths = NETWORKS[kind]
    setattr(theirs, part, random_peer(name, **widths, **changes))
    theirs.vae = random_peer("VAE of 16 channels" if kind == "sd3" else "VAE of 4 channels", seed=1)
    theirs.scheduler = scheduler_of(kind)
    if kind == "sd15":
        theirs.safety_checker = None
    parts = {name: getattr(theirs, name) for name in theirs.components}
    made = type(theirs)(**parts, **({"requires_safety_checker": False} if kind == "sd15" else {}))
    made.save_pretrained(folder)
    made.set_progress_bar_config(disable=True)
    return made


def scheduler_of(kind: str) -> Any:
    if kind == "sd3":
        return diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    if kind == "sdxl":
        return diffusers.EulerDiscreteScheduler(**NOISE, steps_offset=1, timestep_spacing="leading")
    return diffusers.PNDMScheduler(**NOISE, steps_offset=1, skip_prk_steps=True, set_alpha_to_one=False)


def for_mode(theirs: Any, kind: str, mode: str) -> Any:
    """The pipeline of this mode over the same parts."""
    if mode == "text":
        return theirs
    made = getattr(diffusers, CLASSES[kind][MODES.index(mode)]).from_pipe(theirs)
    made.set_progress_bar_config(disable=True)
    return made


class TheirDraws(Draws):
    """diffusers' numbers: from one generator, in the order in which its pipelines draw them."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.generator = torch.Generator().manual_seed(seed)

    def start(self, shape: tuple[int, int, int], count: int) -> np.ndarray:
        return torch.randn((count, *shape), generator=self.generator).numpy()

    def encoding(self, shape: tuple[int, int, int]) -> np.ndarray:
        return torch.randn((1, *shape), generator=self.generator).numpy()

    def step(self, i: int, shape: tuple[int, int, int], count: int) -> np.ndarray:
        return self.start(shape, count)


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    """Colours that go over into each other, with some noise."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [np.sin(rows / 7 + 2 * c) + np.cos(columns / (5 + c)) for c in range(3)]
    values = 127 + 50 * np.stack(waves, axis=-1) + rng.normal(0, 6, (height, width, 3))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def mask(height: int, width: int) -> Image.Image:
    values = np.zeros((height, width), np.uint8)
    values[height // 4 : 3 * height // 4, width // 3 :] = 255
    return Image.fromarray(values)


def farthest(found: list[Image.Image], expected: list[Image.Image]) -> int:
    """The largest difference of a colour, of 255."""
    assert len(found) == len(expected)
    both = [[np.asarray(one, np.int16) for one in pictures] for pictures in (found, expected)]
    return max(int(np.abs(a - b).max()) for a, b in zip(*both))
