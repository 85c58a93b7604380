"""Aspect-ratio buckets: pictures of like shape form a batch, and little of each is cut off.

Anlatan, "NovelAI Improvements on Stable Diffusion", 2022: sides are multiples of a step, and a bucket has at
most as many pixels as a square of the resolution. Podell et al., "SDXL", 2023 (arXiv 2307.01952), section
2.4 and appendix I, trains with such.

Shapes: heights and widths in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from mix_core.data.draws import Draws
from mix_core.errors import ConfigError

Size = tuple[int, int]
"""(height, width)."""
MAX_RATIO = 2.0
"""Longer side over shorter, at most."""


def make_buckets(resolution: int, step: int = 64, max_ratio: float = MAX_RATIO) -> list[Size]:
    """All sizes with sides that are multiples of `step`, from the tallest to the widest.

    For each width the greatest height whose area is at most resolution^2; the square itself is one of them.
    Raises ConfigError.
    """
    if step < 1 or resolution < step or resolution % step:
        raise ConfigError(f"resolution is {resolution}, expected a multiple of {step} (the buckets' step)")
    if max_ratio < 1:
        raise ConfigError(f"the greatest aspect ratio of a bucket is {max_ratio}, expected 1 or more")
    sizes = set()
    for short in range(step, resolution + 1, step):
        long = resolution * resolution // short // step * step
        if long <= short * max_ratio:
            sizes |= {(short, long), (long, short)}
    return sorted(sizes, key=lambda size: size[1] / size[0])


def bucket_of(size: Size, buckets: Sequence[Size]) -> int:
    """The place of the bucket whose aspect ratio is nearest to a picture's, by their logarithms."""
    ratio = math.log(size[1] / size[0])
    return min(range(len(buckets)), key=lambda i: abs(math.log(buckets[i][1] / buckets[i][0]) - ratio))


def bucket_batches(of_sample: Sequence[int], batch: int, seed: int, epoch: int) -> list[list[int]]:
    """Samples in batches of one bucket, in a random order; every sample is in exactly one batch.

    of_sample: each sample's bucket. The last batch of a bucket may be smaller: a picture is never left out
    and never shown twice.
    """
    draws = Draws("buckets", seed, epoch)
    members: dict[int, list[int]] = {}
    for sample in draws.permutation(len(of_sample)).tolist():
        members.setdefault(of_sample[sample], []).append(sample)
    batches = [
        samples[start : start + batch]
        for _, samples in sorted(members.items())
        for start in range(0, len(samples), batch)
    ]
    return [batches[i] for i in draws.permutation(len(batches)).tolist()]
