"""Which parameters learn: the freezing keys.

A parameter is frozen when one of the freezing keys matches its published name and no pattern of
freeze_exclude does. (The original tool left everything as it was when both lists were given, and thawed with
an exclude list alone; docs/migrating.md.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from mix_core.errors import ConfigError

if TYPE_CHECKING:
    from mix_core.config import RunConfig

TOWER = ("visual.*", "vision_model.*", "*vision_tower.*")
PROJECTOR = ("visual.merger.*", "mlp1.*", "*mm_projector.*", "*multi_modal_projector.*")
LANGUAGE = ("model.*", "lm_head.*", "language_model.*")
"""The parts of a model by the names that the published checkpoints of all families give them."""
RESAMPLER = ("*visual.attn_pool.*",)
"""Of the tower by its name, yet left to learn by `freeze_vit`, as Qwen-VL's own fix_vit leaves it."""


def frozen_names(names: Sequence[str], config: RunConfig) -> set[str]:
    """The parameters, of all these, that a configuration freezes.

    Raises:
        ConfigError: a pattern or a freezing key matches no parameter, or nothing is left to train.
    """
    wanted: dict[str, tuple[str, ...]] = {}
    if config.freeze_vit:
        wanted["freeze_vit"] = TOWER
    if config.freeze_llm:
        wanted["freeze_llm"] = LANGUAGE
    if config.freeze_mlp:
        wanted["freeze_mlp"] = PROJECTOR
    for pattern in config.freeze_include or []:
        wanted[f"freeze_include {pattern!r}"] = (pattern,)
    frozen: set[str] = set()
    for key, patterns in wanted.items():
        frozen |= _matches(names, patterns, key)
        if key == "freeze_vit":
            frozen -= matching(names, RESAMPLER)
    for pattern in config.freeze_exclude or []:
        frozen -= _matches(names, (pattern,), f"freeze_exclude {pattern!r}")
    if len(frozen) == len(names):
        raise ConfigError(
            "every parameter is frozen; take a freezing key away, or name what learns in freeze_exclude"
        )
    return frozen


def matching(names: Iterable[str], patterns: Iterable[str]) -> set[str]:
    """The names that any of the patterns fits."""
    patterns = tuple(patterns)
    return {name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)}


def _matches(names: Sequence[str], patterns: Iterable[str], key: str) -> set[str]:
    found = matching(names, patterns)
    if not found:
        parts = sorted({".".join(name.split(".")[:2]) for name in names})
        raise ConfigError(f"{key} matches no parameter; the model has {', '.join(parts[:8])}...")
    return found


def freeze(model: Any, config: RunConfig) -> list[str]:
    """Mark frozen parameters and return the names of those that learn, in the model's order."""
    names = [name for name, _ in model.named_parameters()]
    frozen = frozen_names(names, config)
    for name, parameter in model.named_parameters():
        parameter.stop_gradient = name in frozen
    return [name for name in names if name not in frozen]
