"""The adapter that a run trains: which maps it changes, where its values come from, what a checkpoint holds.

Targets are patterns of published module names (the weight's name without `.weight`). A pattern fits a module
when it is a regular expression for the whole name, as the original tools read it, or the name's end, as PEFT
does. Where the model splits a published matrix, the pattern selects the parts.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mix_core.device import Capability
from mix_core.errors import ConfigError
from mix_core.models.common.adapter_files import StoredAdapter, read_adapter
from mix_core.models.common.adapters import AdapterSet, fingerprint
from mix_core.models.common.lora import (
    LinearMap,
    LoRASettings,
    adapted_maps,
    add_adapter,
    init_adapter,
    of_name,
)

if TYPE_CHECKING:
    from paddle import Tensor

    from mix_core.config import RunConfig
    from mix_core.device import Activation
    from mix_core.models.registry import ModelFamily

NAME = "default"
"""Of the one adapter that a run trains; PEFT's name for it."""

TOOL_DECODER = "llama."
"""How PaddleMIX's samples for LLaVA begin the names of a decoder's layers."""

_PLAIN = re.compile(r"[\w.]+(,[\w.]+)+")


class RunAdapter:
    """What a run with `lora` puts on its model and saves in place of the model."""

    def __init__(self, model: Any, family: ModelFamily, config: RunConfig, start: Path | None) -> None:
        """`start`: the checkpoint to go on from, if any. The model's weights must be the base's still.

        Raises:
            ConfigError: a target matches nothing, or a key differs from the adapter to start from.
            WeightsError: that adapter is for another model.
        """
        self.config = config
        self.adapters = AdapterSet(model, family)
        source = start or config.lora_path
        if source is not None:
            stored = read_adapter(source).renamed(family.stored_name)
            _check_keys(config, stored, self.adapters.maps)
            self.fingerprint = fingerprint([m for m in self.adapters.maps if m.name in stored.maps])
            if start is None and "lora_dropout" in config.model_fields_set:
                stored = replace(stored, dropout=config.lora_dropout)
            self.adapters.add(NAME, stored)
        else:
            chosen = targets(self.adapters.maps, config.lora_target_modules)
            self.fingerprint = fingerprint(chosen)
            add_adapter(model, chosen, NAME, settings_of(config))
            init_adapter(chosen, NAME, config.seed)
        self.maps = adapted_maps(model, family.published_name)

    def round_bases(self, activation: Activation) -> int:
        """Keep the weights under the adapters in 8 bits -> how many numbers they hold.

        Raises:
            ConfigError: the device or the adapter cannot.
        """
        key = f"weight_quantize_algo is {self.config.weight_quantize_algo}"
        if not activation.profile.supports(Capability.INT8_WEIGHTS):
            raise ConfigError(
                f"{key}, but device {activation.name} cannot keep weights in 8 bits in training; "
                "leave the key out"
            )
        if any(adapter.magnitude is not None for _, adapter in of_name(self.maps, NAME)):
            raise ConfigError(f"{key}, but the adapter to start from is of DoRA; leave the key out")
        return self.adapters.round_bases()

    def check_learning(self, learned: Sequence[str]) -> None:
        """Refuse a map that would learn as a whole and through an adapter too.

        `learned`: parameters of the model that learn as a whole, by published name.
        """
        both = sorted({one.name for one in self.maps} & {name.rpartition(".")[0] for name in learned})
        if both:
            raise ConfigError(
                f"{both[0]} learns as a whole and has an adapter too; freeze it, or take it out of "
                "lora_target_modules"
            )

    def load(self, checkpoint: Path) -> None:
        """Take the values that a checkpoint of this run holds."""
        self.adapters.refill(NAME, read_adapter(checkpoint))

    def tensors(self, learned: Sequence[str]) -> list[Tensor]:
        """What `write` takes values of."""
        return self.adapters.tensors(NAME, learned)

    def write(self, folder: Path, learned: Sequence[str]) -> None:
        """Fill a checkpoint's folder: the adapter, and what learned as a whole."""
        self.adapters.write(
            folder,
            NAME,
            base=self.config.model_name_or_path or "",
            fingerprint=self.fingerprint,
            learned=learned,
            rounded=self.config.weight_quantize_algo,
        )


def settings_of(config: RunConfig) -> LoRASettings:
    return LoRASettings(
        rank=config.lora_rank,
        alpha=config.lora_alpha,
        dropout=config.lora_dropout,
        rslora=config.use_rslora,
        dora=config.use_dora,
    )


def targets(maps: Sequence[LinearMap], patterns: str | list[str] | None) -> list[LinearMap]:
    """The maps that get an adapter.

    Raises:
        ConfigError: a pattern is no regular expression, or matches nothing; near names are shown.
    """
    if patterns is None:
        return [one for one in maps if one.in_decoder is not None]
    if isinstance(patterns, str):
        patterns = patterns.split(",") if _PLAIN.fullmatch(patterns) else [patterns]
    if not patterns:
        raise ConfigError("lora_target_modules is an empty list; leave it out for the whole language model")
    chosen: set[str] = set()
    for pattern in patterns:
        found = {one.path for one in maps if _fits(pattern, one)}
        if not found:
            raise ConfigError(
                f"lora_target_modules: {pattern!r} matches no linear map; {_near(pattern, maps)}"
            )
        chosen |= found
    return [one for one in maps if one.path in chosen]


def _fits(pattern: str, one: LinearMap) -> bool:
    names = [one.name]
    if one.in_decoder is not None:
        names.append(TOOL_DECODER + one.in_decoder)
    if any(name == pattern or name.endswith(f".{pattern}") for name in names):
        return True
    try:
        return any(re.fullmatch(pattern, name) for name in names)
    except re.error as error:
        raise ConfigError(f"lora_target_modules: {pattern!r} is no regular expression: {error}") from None


def _near(pattern: str, maps: Iterable[LinearMap]) -> str:
    """The names that come nearest to a pattern's, layers counted once."""
    word = re.sub(r"[^\w.]+", "", pattern).strip(".")
    names = list(dict.fromkeys(one.name for one in maps))
    ends = list(dict.fromkeys(name.rpartition(".")[2] for name in names))
    close = difflib.get_close_matches(
        word.rpartition(".")[2], [end for end in ends if not end.isdigit()], n=3
    )
    if close:
        return f"near names: {', '.join(close)}"
    kinds = dict.fromkeys(re.sub(r"\.\d+\.", ".N.", name) for name in names)
    nearest = difflib.get_close_matches(word, kinds, n=3, cutoff=0.0)
    return f"names are like {', '.join(nearest)}"


def _check_keys(config: RunConfig, stored: StoredAdapter, maps: Sequence[LinearMap]) -> None:
    """Keys that are given must say what the adapter to start from says."""
    pairs = {
        "lora_rank": stored.rank,
        "lora_alpha": float(stored.alpha),
        "use_rslora": stored.rslora,
        "use_dora": stored.dora,
    }
    for key, value in pairs.items():
        if key in config.model_fields_set and getattr(config, key) != value:
            raise ConfigError(
                f"{key} is {getattr(config, key)}, the adapter {stored.folder} has {value}; leave the key out"
            )
    if config.lora_target_modules is not None:
        wanted = {one.name for one in targets(maps, config.lora_target_modules)}
        if wanted != set(stored.maps):
            other = sorted(wanted ^ set(stored.maps))[0]
            raise ConfigError(
                f"lora_target_modules and the adapter {stored.folder} differ in {other}; leave the key out"
            )
