"""The learning rate of each step: a warm-up, then constant, linear or cosine down to the lowest rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mix_core.config import RunConfig


@dataclass(frozen=True)
class Schedule:
    """Rates over a run of `total_steps`. Steps count from 1."""

    kind: str
    """linear, cosine or constant."""
    peak: float
    total_steps: int
    warmup_steps: int = 0
    warmup_start: float = 0.0
    lowest: float = 0.0

    def rate(self, step: int) -> float:
        """The learning rate of this step (1 to total_steps).

        The warm-up rises in equal parts and reaches the peak at step `warmup_steps + 1`; the fall would reach
        the lowest rate one step after the last, so that no step is spent at a rate of zero.
        """
        done = step - 1
        if done < self.warmup_steps:
            return self.warmup_start + (self.peak - self.warmup_start) * (done + 1) / (self.warmup_steps + 1)
        if self.kind == "constant":
            return self.peak
        share = min(1.0, (done - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps))
        left = 1.0 - share if self.kind == "linear" else 0.5 * (1.0 + math.cos(math.pi * share))
        return self.lowest + (self.peak - self.lowest) * left


def schedule_of(config: RunConfig, total_steps: int) -> Schedule:
    """The schedule a configuration asks for; warmup_steps above 0 wins over warmup_ratio."""
    warmup = config.warmup_steps or math.ceil(config.warmup_ratio * total_steps)
    kind = "constant" if config.lr_scheduler_type == "constant_with_warmup" else config.lr_scheduler_type
    return Schedule(
        kind=kind,
        peak=config.learning_rate,
        total_steps=total_steps,
        warmup_steps=min(warmup, total_steps),
        warmup_start=config.warmup_start_lr,
        lowest=config.min_learning_rate,
    )
