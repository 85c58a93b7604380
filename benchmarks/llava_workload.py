"""The workload of benchmarks/llava_step.py, for mix-core and its peer alike.

A LLaVA-1.6 of a small size and one row of `seq` tokens with one picture: a small view and four tiles of 8 x 8
patches, which give 336 of the tokens. All others are labels. A step is forward, backward and one AdamW update
of everything (`full`), or of adapters on all linear maps of the decoder (`lora`). Imports neither paddle nor
torch.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import workload

KINDS = ("full", "lora")
TILE, PATCH = 112, 14
PICTURE = (2 * TILE, 2 * TILE)
PINPOINTS = ((TILE, 2 * TILE), (2 * TILE, TILE), PICTURE)
TILES = 5
GRID = TILE // PATCH
PICTURE_TOKENS = GRID**2 + 2 * GRID * (2 * GRID + 1)
"""The small view, and each row of the tiles' patches with a newline."""
DECODER_MAPS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def config_dict(size: workload.Size) -> dict[str, Any]:
    """config.json as llava-hf has it. Of the tower's layers the last one is not run."""
    text = {
        "model_type": "llama",
        "vocab_size": size.vocabulary,
        "hidden_size": size.hidden,
        "intermediate_size": size.intermediate,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
    }
    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": size.vision_hidden,
        "intermediate_size": size.vision_intermediate,
        "num_hidden_layers": size.vision_layers + 1,
        "num_attention_heads": size.vision_heads,
        "image_size": TILE,
        "patch_size": PATCH,
    }
    return {
        "model_type": "llava_next",
        "image_token_index": size.vocabulary - 1,
        "image_grid_pinpoints": [list(size) for size in PINPOINTS],
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "tie_word_embeddings": False,
        "text_config": text,
        "vision_config": vision,
    }


def batch(size: workload.Size, seq: int) -> dict[str, np.ndarray]:
    """One row: random ids with one picture near the front, which is no label."""
    random = np.random.RandomState(0)
    ids_BS = random.randint(0, size.vocabulary - 1, size=(1, seq)).astype(np.int64)
    ids_BS[0, 5 : 5 + PICTURE_TOKENS] = size.vocabulary - 1
    return {
        "input_ids": ids_BS,
        "attention_mask": np.ones_like(ids_BS),
        "labels": np.where(ids_BS == size.vocabulary - 1, -100, ids_BS),
        "pixel_values": random.randn(1, TILES, 3, TILE, TILE).astype(np.float32),
        "image_sizes": np.array([PICTURE], np.int64),
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", choices=sorted(workload.SIZES), default="mini")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--seq", type=int, default=1024, help="tokens of the row, 342 or more")
    parser.add_argument("--steps", type=int, default=5, help="measured steps of each process")
    parser.add_argument("--rank", type=int, default=16, help="of the adapters")


def measure(
    arguments: argparse.Namespace,
    kind: str,
    *,
    program: str,
    learning: int,
    before_mib: float,
    train_step: Callable[[], float],
) -> dict[str, Any]:
    """Time the steps: `learning` parameters learn; `before_mib`: peak memory before there was a model."""
    seconds = []
    for _ in range(workload.WARM_UP_STEPS + arguments.steps):
        started = time.perf_counter()
        loss = train_step()
        seconds.append(time.perf_counter() - started)
    return {
        "program": program,
        "kind": kind,
        "size": arguments.size,
        "dtype": arguments.dtype,
        "seq": arguments.seq,
        "learning": learning,
        "loss": loss,
        "step_ms": statistics.median(seconds[workload.WARM_UP_STEPS :]) * 1e3,
        "peak_mib": peak_mib() - before_mib,
    }


def peak_mib() -> float:
    """Peak memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
