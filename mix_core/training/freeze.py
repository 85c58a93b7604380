"""Which parameters learn: the freezing keys.

A parameter is frozen when one of the freezing keys matches its published name and no pattern of
freeze_exclude does. (The original tool left everything as it was when both lists were given, and thawed with
an exclude list alone; docs/migrating.md.)

With adapters all of the model is frozen to begin with, and the adapters learn. The tower learns beside them
where `freeze_vit: false` or a rate of its own is given, the projector where `freeze_mlp: false` or one is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from math import prod
from typing import TYPE_CHECKING, Any

from mix_core.errors import ConfigError
from mix_core.models.common.adapter_files import ADAPTERS
from mix_core.models.common.parts import whole_shape

if TYPE_CHECKING:
    from mix_core.config import RunConfig

TOWER = ("visual.*", "vision_model.*", "*vision_tower.*", "transformer.visual.*")
PROJECTOR = (
    "visual.merger.*",
    "mlp1.*",
    "*mm_projector.*",
    "*multi_modal_projector.*",
    "transformer.visual.attn_pool.*",
)
LANGUAGE = (
    "model.*",
    "lm_head.*",
    "language_model.*",
    "transformer.wte.*",
    "transformer.h.*",
    "transformer.ln_f.*",
)
"""The parts of a model by the names that the published checkpoints of all families give them."""
HEAD = ("lm_head.*", "*.lm_head.*", "language_model.output.*")
BLOCK = re.compile(r"\.(\d+)\.")
"""The number of a block in a parameter's name, such as `visual.blocks.7.norm1.weight`."""
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
    frozen = _frozen_beneath_adapters(names, config) if config.lora else set()
    for key, patterns in wanted.items():
        found = _matches(names, patterns, key)
        frozen |= found - matching(names, RESAMPLER) if key == "freeze_vit" else found
    if config.unfreeze_vit_layers:
        frozen -= _blocks_from(names, config.unfreeze_vit_layers)
    if config.unfreeze_lm_head:
        frozen -= _matches(names, HEAD, "unfreeze_lm_head")
    for pattern in config.freeze_exclude or []:
        frozen -= _matches(names, (pattern,), f"freeze_exclude {pattern!r}")
    if len(frozen) == len(names) and not config.lora:
        raise ConfigError(
            "every parameter is frozen; take a freezing key away, or name what learns in freeze_exclude"
        )
    return frozen


def _blocks_from(names: Sequence[str], first: int) -> set[str]:
    """Parameters of the tower's blocks from this one on, counted from the last where it is negative."""
    tower = matching(names, TOWER) - matching(names, PROJECTOR)
    numbers = {name: int(found[1]) for name in tower if (found := BLOCK.search(name)) is not None}
    blocks = max(numbers.values(), default=-1) + 1
    start = first if first > 0 else blocks + first
    learning = {name for name, number in numbers.items() if number >= start}
    if not learning or -first > blocks:
        raise ConfigError(f"unfreeze_vit_layers is {first}, and the vision tower has {blocks} blocks")
    return learning


def _frozen_beneath_adapters(names: Sequence[str], config: RunConfig) -> set[str]:
    learning: set[str] = set()
    of_tower = "freeze_vit" in config.model_fields_set or config.vit_lr is not None
    if of_tower and not config.freeze_vit:
        learning |= _matches(names, TOWER, "freeze_vit or vit_lr")
    of_projector = "freeze_mlp" in config.model_fields_set or config.mm_projector_lr is not None
    if of_projector and not config.freeze_mlp:
        learning |= _matches(names, PROJECTOR, "freeze_mlp or mm_projector_lr")
    return set(names) - learning


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


def freeze(model: Any, config: RunConfig, published_name: Callable[[str], str] = str) -> list[str]:
    """Mark frozen parameters and return the names of those that learn, in the model's order."""
    published = {name: published_name(name) for name, _ in model.named_parameters() if ADAPTERS not in name}
    frozen = frozen_names(list(dict.fromkeys(published.values())), config)
    learning = []
    for name, parameter in model.named_parameters():
        parameter.stop_gradient = published.get(name) in frozen
        if not parameter.stop_gradient:
            learning.append(name)
    return learning


def learning_table(model: Any, published_name: Callable[[str], str] = str) -> str:
    """What learns, by module, as aligned lines; adapters have a line of their own."""
    rows: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        row = rows.setdefault("adapters" if ADAPTERS in name else _module(published_name(name)), [0, 0])
        count = prod(whole_shape(parameter))
        row[0] += count
        row[1] += 0 if parameter.stop_gradient else count
    rows["all"] = [sum(row[0] for row in rows.values()), sum(row[1] for row in rows.values())]
    cells = [("module", "parameters", "trainable")]
    cells += [(module, f"{count:,}", f"{learns:,}") for module, (count, learns) in rows.items()]
    widths = [max(len(row[column]) for row in cells) for column in range(3)]
    return "\n".join(
        f"  {module:<{widths[0]}}  {count:>{widths[1]}}  {learns:>{widths[2]}}"
        for module, count, learns in cells
    )


def _module(name: str) -> str:
    """`model.layers.0.mlp.up_proj.weight` -> model.layers: at most three words before a layer's number."""
    words = []
    for word in name.split(".")[:-1][:3]:
        if word.isdigit():
            break
        words.append(word)
    return ".".join(words) or name
