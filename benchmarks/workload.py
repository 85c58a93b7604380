"""The workload that the training benchmarks run, and how it is measured: for mix-core and peers alike.

A Qwen2.5-VL of a small size, one row of `seq` tokens with one 16 x 16 patch image, every token a label. A
step is forward, backward and one AdamW update. Imports neither paddle nor torch.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

WARM_UP_STEPS = 2
GENERATIONS = 5
"""Of which the medians count: a decoded token is what is left of two of them."""
LEARNING_RATE = 1e-4
WEIGHT_DECAY = 0.01
GRID = (1, 16, 16)
PATCH, MERGE, TEMPORAL, CHANNELS = 14, 2, 2, 3


@dataclass(frozen=True)
class Size:
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    vision_layers: int
    vision_hidden: int
    vision_heads: int
    vision_intermediate: int


SIZES = {
    "mini": Size(512, 8, 8, 2, 1408, 32000, 8, 320, 5, 864),
    "tiny": Size(128, 4, 4, 2, 352, 2048, 4, 64, 4, 160),
}


def config_dict(size: Size) -> dict[str, Any]:
    """The nested config.json of a Qwen2.5-VL of this size."""
    head_dim = size.hidden // size.heads
    temporal = head_dim // 8
    height = temporal + head_dim // 16
    sections = [temporal, height, head_dim // 2 - temporal - height]
    rope = {"rope_type": "default", "type": "default", "mrope_section": sections, "rope_theta": 1e6}
    text = {
        "model_type": "qwen2_5_vl_text",
        "vocab_size": size.vocabulary,
        "hidden_size": size.hidden,
        "intermediate_size": size.intermediate,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "rope_parameters": rope,
    }
    vision = {
        "model_type": "qwen2_5_vl",
        "depth": size.vision_layers,
        "hidden_size": size.vision_hidden,
        "num_heads": size.vision_heads,
        "intermediate_size": size.vision_intermediate,
        "out_hidden_size": size.hidden,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": TEMPORAL,
        "window_size": 112,
        "fullatt_block_indexes": [size.vision_layers - 1],
        "in_channels": CHANNELS,
        "hidden_act": "silu",
        "tokens_per_second": 4,
        "initializer_range": 0.02,
    }
    return {
        "model_type": "qwen2_5_vl",
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "text_config": text,
        "vision_config": vision,
        "image_token_id": size.vocabulary - 3,
        "video_token_id": size.vocabulary - 4,
        "vision_start_token_id": size.vocabulary - 5,
        "vision_end_token_id": size.vocabulary - 6,
        "tie_word_embeddings": True,
    }


def batch(size: Size, seq: int) -> dict[str, np.ndarray]:
    """One row: random token ids with one image near the front. Special ids lie above the random ones."""
    random = np.random.RandomState(0)
    t, h, w = GRID
    image_tokens = t * h * w // MERGE**2
    ids_BS = random.randint(0, size.vocabulary - 10, size=(1, seq)).astype(np.int64)
    ids_BS[0, 4] = size.vocabulary - 5
    ids_BS[0, 5 : 5 + image_tokens] = size.vocabulary - 3
    ids_BS[0, 5 + image_tokens] = size.vocabulary - 6
    pixels = random.randn(t * h * w, CHANNELS * TEMPORAL * PATCH**2).astype(np.float32)
    return {
        "input_ids": ids_BS,
        "attention_mask": np.ones_like(ids_BS),
        "labels": ids_BS.copy(),
        "pixel_values": pixels,
        "image_grid_thw": np.array([GRID], dtype=np.int64),
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", choices=sorted(SIZES), default="mini")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--seq", type=int, default=1024, help="tokens of the row")
    parser.add_argument(
        "--steps", type=int, default=5, help=f"measured steps, after {WARM_UP_STEPS} to warm up"
    )
    parser.add_argument("--decode", type=int, default=32, help="tokens over which decoding is measured")


def measure(
    arguments: argparse.Namespace,
    *,
    program: str,
    params: int,
    train_step: Callable[[], float],
    generate: Callable[[int], object],
) -> dict[str, Any]:
    """Time the steps, read the peak memory, then time generation.

    train_step() -> loss does one whole step and returns when it is done. generate(n) decodes exactly n tokens
    greedily from the prompt; the first of them is the prefill.
    """
    seconds = []
    for _ in range(WARM_UP_STEPS + arguments.steps):
        started = time.perf_counter()
        loss = train_step()
        seconds.append(time.perf_counter() - started)
    step_s = statistics.median(seconds[WARM_UP_STEPS:])
    rss_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    def generation_s(tokens: int) -> float:
        started = time.perf_counter()
        generate(tokens)
        return time.perf_counter() - started

    generation_s(2)
    pairs = [(generation_s(1), generation_s(arguments.decode + 1)) for _ in range(GENERATIONS)]
    prefill_s = statistics.median(alone for alone, _ in pairs)
    all_s = statistics.median(both for _, both in pairs)
    return {
        "program": program,
        "size": arguments.size,
        "dtype": arguments.dtype,
        "params": params,
        "seq": arguments.seq,
        "loss": loss,
        "step_ms": step_s * 1e3,
        "train_tok_s": arguments.seq / step_s,
        "rss_mib": rss_mib,
        "prefill_ms": prefill_s * 1e3,
        "decode_tok_s": arguments.decode / (all_s - prefill_s),
    }


def print_line(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)
