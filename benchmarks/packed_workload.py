"""Samples of mixed lengths, as one packed row or as padded rows, and how a step over them is measured.

For mix-core and peers alike; imports neither paddle nor torch. Text only, every token a label.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import workload

LENGTHS = (64, 96, 128, 192, 256, 320, 416, 576)
"""Of the first eight samples, 256 in the mean; further samples repeat them."""
MEAN = 256
FORMS = ("packed", "padded", "dense")
WARM_UP_STEPS = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", choices=sorted(workload.SIZES), default="mini")
    parser.add_argument("--samples", type=int, default=32, help="a multiple of 8")
    parser.add_argument("--mean", type=int, default=MEAN, help="mean length of a sample, a multiple of 8")
    parser.add_argument("--steps", type=int, default=3, help=f"measured, after {WARM_UP_STEPS} to warm up")


def lengths(arguments: argparse.Namespace) -> list[int]:
    """Tokens of each sample; together `samples * mean`."""
    if arguments.samples % len(LENGTHS) or arguments.samples < 1:
        raise SystemExit(f"--samples is {arguments.samples}, expected a multiple of {len(LENGTHS)}")
    if arguments.mean % 8 or arguments.mean < 8:
        raise SystemExit(f"--mean is {arguments.mean}, expected a multiple of 8")
    return [LENGTHS[i % len(LENGTHS)] * arguments.mean // MEAN for i in range(arguments.samples)]


def batch(arguments: argparse.Namespace, form: str) -> dict[str, np.ndarray]:
    """The samples as one of FORMS.

    packed: one row and the ends of its samples, cu_seqlens. padded: a row a sample, as long as the longest.
    dense: one row, in which every token sees those of the samples before.
    """
    parts = lengths(arguments)
    vocabulary = workload.SIZES[arguments.size].vocabulary
    tokens = np.random.RandomState(0).randint(0, vocabulary - 10, size=sum(parts)).astype(np.int64)
    ends = np.concatenate([[0], np.cumsum(parts)])
    if form != "padded":
        row = {"input_ids": tokens[None], "labels": tokens[None].copy()}
        return row | ({"cu_seqlens": ends.astype(np.int32)} if form == "packed" else {})
    shape = (len(parts), max(parts))
    ids_BS, labels_BS, mask_BS = np.zeros(shape, np.int64), np.full(shape, -100), np.zeros(shape, np.int64)
    for row, (start, end) in enumerate(pairwise(ends)):
        ids_BS[row, : end - start] = labels_BS[row, : end - start] = tokens[start:end]
        mask_BS[row, : end - start] = 1
    return {"input_ids": ids_BS, "labels": labels_BS, "attention_mask": mask_BS}


def measure(
    arguments: argparse.Namespace, *, program: str, form: str, train_step: Callable[[], float]
) -> dict[str, Any]:
    """Time the steps and read the peak memory of this process."""
    seconds = []
    for _ in range(WARM_UP_STEPS + arguments.steps):
        started = time.perf_counter()
        loss = train_step()
        seconds.append(time.perf_counter() - started)
    step_s = statistics.median(seconds[WARM_UP_STEPS:])
    tokens = sum(lengths(arguments))
    return {
        "program": program,
        "form": form,
        "size": arguments.size,
        "samples": arguments.samples,
        "tokens": tokens,
        "places": int(batch(arguments, form)["input_ids"].size),
        "loss": loss,
        "step_ms": step_s * 1e3,
        "train_tok_s": tokens / step_s,
        "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
