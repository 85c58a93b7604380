"""Learning rates by module: each as a multiple of learning_rate, so that one schedule serves them all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from mix_core.errors import ConfigError
from mix_core.training.freeze import BLOCK, LANGUAGE, PROJECTOR, TOWER, matching

if TYPE_CHECKING:
    from mix_core.config import RunConfig


def rate_factors(learning: Iterable[str], config: RunConfig) -> dict[str, float]:
    """Multiple of learning_rate by published name, where it is not 1.

    The projector has mm_projector_lr, the rest of the tower vit_lr, the language model llm_lr. With
    vit_layer_decay d the k-th block of the tower from the top has d^k of the tower's rate, what comes before
    the first block d^(number of blocks) (Clark et al., "ELECTRA", 2020; Bao et al., "BEiT", 2022).

    Raises:
        ConfigError: a rate has no parameter that learns, or learning_rate is 0.
    """
    learning = list(learning)
    projector = matching(learning, PROJECTOR)
    tower = [name for name in learning if name in matching([name], TOWER) - projector]
    language = matching(learning, LANGUAGE) - projector - {*tower}
    factors: dict[str, float] = {}
    for key, names in (("mm_projector_lr", projector), ("vit_lr", tower), ("llm_lr", language)):
        rate = getattr(config, key)
        if rate is None:
            continue
        if config.learning_rate == 0:
            raise ConfigError(
                f"{key} is {rate:g} and learning_rate is 0; freeze what is not to learn instead"
            )
        if not names:
            raise ConfigError(f"{key} is {rate:g}, but none of its parameters learns; leave one key out")
        factors |= dict.fromkeys(names, rate / config.learning_rate)
    if config.vit_layer_decay < 1:
        for name, decay in layer_decay(tower, config.vit_layer_decay).items():
            factors[name] = factors.get(name, 1.0) * decay
    return {name: factor for name, factor in factors.items() if factor != 1.0}


def layer_decay(tower: Sequence[str], decay: float) -> dict[str, float]:
    """What the rate of each of the tower's parameters, in the model's order, is multiplied by.

    What has no block's number belongs to the block before it, or stands before the first one (the patch
    embedding).
    """
    numbers: list[int] = []
    for name in tower:
        match = BLOCK.search(name)
        numbers.append(int(match[1]) if match else numbers[-1] if numbers else -1)
    top = max(numbers, default=0)
    return {name: decay ** (top - number) for name, number in zip(tower, numbers)}
