"""The workload of diffusion_step.py, for mix-core and its peer alike. Imports neither paddle nor torch.

A small SD3 transformer on latents of 32 x 32, or a small SDXL U-Net on latents of 64 x 64, two rows, 77
tokens of text. A step is forward, backward from the mean square of the result, and one AdamW update. Sampling
is 20 steps of one picture's latents with guidance, its two rows together, by the scheduler of the published
model; text encoders and autoencoder have no part in it.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

WARM_UP_STEPS = 2
LEARNING_RATE = 1e-4
WEIGHT_DECAY = 0.01
ROWS, TOKENS = 2, 77
GUIDANCE = 5.0
TRAIN, SAMPLE = "train", "sample"
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "sd3": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    "sdxl": (
        "EulerDiscreteScheduler",
        {
            "beta_schedule": "scaled_linear",
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "steps_offset": 1,
            "timestep_spacing": "leading",
        },
    ),
}
"""Class and configuration, as the published models have them."""

CONFIGS: dict[str, dict[str, Any]] = {
    "sd3": {
        "_class_name": "SD3Transformer2DModel",
        "sample_size": 32,
        "num_layers": 8,
        "num_attention_heads": 8,
        "joint_attention_dim": 512,
        "caption_projection_dim": 512,
        "pooled_projection_dim": 256,
        "pos_embed_max_size": 64,
    },
    "sdxl": {
        "_class_name": "UNet2DConditionModel",
        "sample_size": 32,
        "block_out_channels": [64, 128, 256],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "attention_head_dim": [1, 2, 4],
        "transformer_layers_per_block": [1, 2, 4],
        "cross_attention_dim": 256,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 32,
        "projection_class_embeddings_input_dim": 6 * 32 + 128,
    },
}


def inputs(model: str) -> dict[str, np.ndarray]:
    """By the names of mix-core's forward passes."""
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    if model == "sd3":
        return {
            "hidden_states": draw(ROWS, 16, 32, 32),
            "encoder_hidden_states": draw(ROWS, TOKENS, 512),
            "pooled_projections": draw(ROWS, 256),
            "timestep": np.array([100.0, 500.0], np.float32),
        }
    return {
        "sample": draw(ROWS, 4, 64, 64),
        "timestep": np.array([100.0, 500.0], np.float32),
        "encoder_hidden_states": draw(ROWS, TOKENS, 256),
        "text_embeds": draw(ROWS, 128),
        "time_ids": np.ones((ROWS, 6), np.float32),
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", choices=sorted(CONFIGS), default="sd3")
    parser.add_argument("--task", choices=(TRAIN, SAMPLE), default=TRAIN)
    parser.add_argument("--steps", type=int, default=5, help="steps, or pictures, that each process measures")
    parser.add_argument("--sampling_steps", type=int, default=20, help="of one picture")


def measure(
    arguments: argparse.Namespace, *, program: str, params: int, run: Callable[[], float]
) -> dict[str, Any]:
    """Time steps, or pictures, after some that warm up, and read the process's peak memory.

    run: one of them; its loss, or the mean square of its latents.
    """
    trains = arguments.task == TRAIN
    warm_up = WARM_UP_STEPS if trains else 1
    seconds, value = [], 0.0
    for _ in range(warm_up + arguments.steps):
        started = time.perf_counter()
        value = run()
        seconds.append(time.perf_counter() - started)
    return {
        "program": program,
        "model": arguments.model,
        "params": params,
        "loss" if trains else "mean_square": value,
        "step_ms" if trains else "sampling_ms": statistics.median(seconds[warm_up:]) * 1e3,
        "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def print_line(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)
