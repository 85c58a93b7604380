"""What the keys about several devices ask for, before any of them is looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mix_core.errors import ConfigError

if TYPE_CHECKING:
    from mix_core.config import RunConfig

STAGES = {"": 0, "none": 0, "stage1": 1, "stage2": 2, "stage3": 3}


@dataclass(frozen=True)
class Layout:
    """How the ranks of a run share its work."""

    ranks: int = 1
    stage: int = 0
    """Of sharding; 0: every rank holds everything."""
    sharing: int = 1
    """Ranks that hold the training state together. Others have the same again."""


def layout_of(config: RunConfig, ranks: int) -> Layout:
    """The layout of a run on this many devices.

    Raises:
        ConfigError: the degrees do not multiply to the number of devices, or a key lacks its other one.
    """
    stage, degree = STAGES[config.sharding], config.sharding_parallel_degree
    if stage == 0:
        if degree > 1:
            raise ConfigError(
                f"sharding_parallel_degree is {degree} and sharding names no stage; give one of "
                f"{', '.join(name for name, number in STAGES.items() if number)}, or leave the degree out"
            )
        return Layout(ranks)
    degree = ranks if degree < 1 else degree
    if ranks % degree:
        raise ConfigError(
            f"sharding_parallel_degree {degree} times a whole number of replicas does not make {ranks}, the "
            "number of devices; give a divisor of it, or -1 for all"
        )
    if degree > 1 and config.module_stats_steps:
        raise ConfigError(
            "module_stats_steps wants whole gradients, and with sharding no rank has them; leave one out"
        )
    return Layout(ranks, stage, degree) if degree > 1 else Layout(ranks)
