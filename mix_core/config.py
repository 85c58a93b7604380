"""The configuration of a run: a JSON or YAML file or a recipe, arguments over it, checked before the start.

Every key of the original tools is taken under its own name (docs/migrating.md). From text to `RunConfig`:

1. read: the file and the arguments become mappings of names to plain values (config_text.py),
2. resolve: other names become keys; names that disagree, and unknown ones, are errors (config_aliases.py),
3. lay the arguments over the file, refuse what asks for something that is not built,
4. validate types and ranges (config_fields.py).

Nothing here imports paddle.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError, model_validator

from mix_core.config_aliases import (
    ALIASES,
    ANYTHING,
    CONTAINERS,
    FIXED,
    NAMED_CONTAINERS,
    PRECISION_SWITCHES,
    SILENT,
)
from mix_core.config_fields import (
    BatchKeys,
    DataKeys,
    EvaluationKeys,
    LayoutKeys,
    ModelKeys,
    OptimizerKeys,
    OutputKeys,
    RunKeys,
    TileKeys,
)
from mix_core.config_pictures import DreamBoothKeys, PictureKeys, ValidationKeys
from mix_core.config_text import kind_of, read_config_file
from mix_core.config_types import expected_of, from_argument
from mix_core.errors import ConfigError
from mix_core.recipes import recipe_file

GROUPS = (
    *(ModelKeys, DataKeys, TileKeys, BatchKeys, OptimizerKeys, LayoutKeys),
    *(EvaluationKeys, OutputKeys, RunKeys, PictureKeys, DreamBoothKeys, ValidationKeys),
)


class RunConfig(
    ModelKeys,
    DataKeys,
    TileKeys,
    BatchKeys,
    OptimizerKeys,
    LayoutKeys,
    EvaluationKeys,
    OutputKeys,
    RunKeys,
    PictureKeys,
    DreamBoothKeys,
    ValidationKeys,
):
    """All keys of one run, under their own names, checked."""

    @model_validator(mode="after")
    def _agree(self) -> RunConfig:
        if self.meta_path is not None and self.dataset.train is not None:
            raise ValueError("meta_path and dataset both name the rows to train on; give one")
        if self.bundled_data is not None and self.dataset.train is not None:
            raise ValueError(
                "bundled_data and dataset both name the rows to train on; give one (bundled_data=null)"
            )
        if self.lora and self.from_scratch:
            raise ValueError(
                "lora trains adapters of given weights, from_scratch draws random ones; give one"
            )
        if self.lora and (self.resize_vocab or self.new_special_tokens):
            raise ValueError(
                "lora saves adapters and not the model, so its vocabulary cannot grow; leave out "
                "resize_vocab and new_special_tokens"
            )
        if self.lora_path is not None and not self.lora:
            raise ValueError("lora_path names an adapter and lora is false; give lora: true, or take it away")
        if self.unfreeze_vit_layers and not (self.freeze_vit or self.lora):
            raise ValueError("unfreeze_vit_layers has a say with freeze_vit only; give both or neither")
        if self.unfreeze_lm_head and not (self.freeze_llm or self.lora):
            raise ValueError("unfreeze_lm_head has a say with freeze_llm only; give both or neither")
        if self.weight_quantize_algo is not None:
            self._check_rounding()
        one_pass = self.per_device_train_batch_size
        if self.global_batch_size is not None:
            accumulation, rest = divmod(self.global_batch_size, one_pass)
            given = "gradient_accumulation_steps" in self.model_fields_set
            if rest or (given and accumulation != self.gradient_accumulation_steps):
                times = self.gradient_accumulation_steps if given else "a whole number"
                raise ValueError(
                    f"global_batch_size {self.global_batch_size} is not per_device_train_batch_size "
                    f"{one_pass} times gradient_accumulation_steps, {times}"
                )
            self.gradient_accumulation_steps = accumulation
        if self.warmup_start_lr > self.learning_rate or self.min_learning_rate > self.learning_rate:
            raise ValueError(
                f"learning_rate {self.learning_rate} is the highest rate; warmup_start_lr "
                f"{self.warmup_start_lr} and min_learning_rate {self.min_learning_rate} may not lie above it"
            )
        return self

    def _check_rounding(self) -> None:
        if not self.lora:
            raise ValueError(
                "weight_quantize_algo keeps frozen weights under adapters in 8 bits, and weights that learn "
                "cannot be kept so; give lora: true, or take it away"
            )
        if self.use_dora:
            raise ValueError(
                "use_dora needs the lengths of the columns of weights, which weight_quantize_algo rounds; "
                "give one"
            )

    @model_validator(mode="after")
    def _what_is_updated_going_back(self) -> RunConfig:
        if not self.optimizer_in_backward:
            return self
        wants_all = {
            f"max_grad_norm {self.max_grad_norm:g}": (self.max_grad_norm > 0, "give max_grad_norm 0"),
            f"gradient_accumulation_steps {self.gradient_accumulation_steps}": (
                self.gradient_accumulation_steps > 1,
                "give 1",
            ),
            "dtype float16": (self.dtype == "float16", "give bfloat16 or float32"),
            f"module_stats_steps {self.module_stats_steps}": (self.module_stats_steps > 0, "give 0"),
        }
        for named, (asked, instead) in wants_all.items():
            if asked:
                raise ValueError(
                    f"{named} needs all gradients of a step, and optimizer_in_backward keeps none; "
                    f"{instead}, or leave optimizer_in_backward out"
                )
        return self

    @model_validator(mode="after")
    def _what_is_computed_again(self) -> RunConfig:
        method, number = self.recompute_method, self.recompute_num_layers
        if method == "block" and number is None:
            raise ValueError(
                "recompute_method block needs recompute_num_layers, so many blocks from the start"
            )
        if method != "block" and number not in (None, 1):
            raise ValueError(
                f"recompute_num_layers {number} without recompute_method block asks for {number} blocks as "
                "one, which is not built; leave it out, or give recompute_method block"
            )
        partly = {
            "recompute_granularity": self.recompute_granularity in ("full_attn", "selective"),
            "recompute_method block": method == "block",
            "no_recompute_layers": bool(self.no_recompute_layers),
        }
        asked = [key for key, given in partly.items() if given]
        if asked and self.sharding == "stage3":
            raise ValueError(
                f"sharding stage3 computes every block again as a whole, and {asked[0]} asks for less; leave "
                "it out, or give sharding stage2"
            )
        if partly["recompute_granularity"] and self.sequence_parallel and self.tensor_parallel_degree > 1:
            raise ValueError(
                "sequence_parallel keeps some of the tokens around whole blocks, and recompute_granularity "
                "asks for halves again; give one"
            )
        if "recompute" not in self.model_fields_set:
            self.recompute = bool(asked or self.recompute_granularity or method)
        return self

    @model_validator(mode="after")
    def _best_needs_evaluation(self) -> RunConfig:
        asking = {
            "load_best_model_at_end": self.load_best_model_at_end,
            "early_stopping_patience": self.early_stopping_patience is not None,
        }
        asks = [key for key, asked in asking.items() if asked]
        if asks and self.do_train and self.evaluation_strategy == "no":
            raise ValueError(
                f"{asks[0]} needs evaluation during training; give evaluation_strategy steps or epoch"
            )
        return self

    @model_validator(mode="after")
    def _one_chat_template(self) -> RunConfig:
        """A template that all sets to train on name is the run's, and saved with its checkpoints."""
        given = self.dataset.train
        named = {entry.chat_template for entry in given} if isinstance(given, list) else set()
        if self.chat_template is None and len(named) == 1:
            self.chat_template = named.pop()
        return self

    @property
    def chat_templates_of_sets(self) -> list[str]:
        """The templates that single sets of rows name."""
        sets = (self.dataset.train, self.dataset.eval)
        entries = [entry for given in sets if isinstance(given, list) for entry in given]
        return sorted({entry.chat_template for entry in entries if entry.chat_template is not None})

    @property
    def samples_per_step(self) -> int:
        """Samples that one optimizer step sees on this device."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps


def load_config(
    path: str | Path | None = None,
    *,
    recipe: str | None = None,
    arguments: Mapping[str, str] | None = None,
) -> RunConfig:
    """Read a configuration file or a recipe, lay arguments over it and check the result.

    Args:
        path: a .json, .yaml or .yml file.
        recipe: the name of a recipe that ships with mix-core, instead of a file.
        arguments: name to text, as given on the command line.
    Raises:
        ConfigError: with the key, what was got and what is expected.
    """
    if path is not None and recipe is not None:
        raise ConfigError(f"got the configuration {path} and the recipe {recipe}; give one of them")
    source = recipe_file(recipe) if recipe is not None else Path(path) if path is not None else None
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    if source is not None:
        name = f"recipe {recipe}" if recipe is not None else str(source)
        values = resolve(read_config_file(source), name)
        origin = dict.fromkeys(values, name)
    if arguments:
        given = {name: argument_value(name, text) for name, text in arguments.items()}
        over = resolve(given, "arguments", below=values)
        origin |= dict.fromkeys(over, "arguments")
        values |= {key: _laid_over(values.get(key), value) for key, value in over.items()}
    if recipe is not None and source is not None:
        values = _beside_recipe(values, source.parent)
    values.setdefault("output_dir", f"runs/{recipe or (source.stem if source is not None else 'run')}")
    return validate(values, origin)


def _laid_over(below: Any, value: Any) -> Any:
    return {**below, **value} if isinstance(below, dict) and isinstance(value, dict) else value


def _beside_recipe(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A recipe names the model folder that lies beside it."""
    name = values.get("model_name_or_path")
    if isinstance(name, str) and (folder / name).is_dir():
        return {**values, "model_name_or_path": str(folder / name)}
    return values


def resolve(given: Mapping[str, Any], where: str, below: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Turn given names into keys. `below` holds what these values will be laid over.

    Raises:
        ConfigError: an unknown name (the nearest known one is named), or two names for one key that disagree.
    """
    said: dict[str, tuple[str, Any]] = {}
    excluded: dict[str, str] = {}
    for name, value in _flat(given):
        key, value = _key_of(name, value, where)
        if value is SILENT:
            if name in PRECISION_SWITCHES:
                excluded[PRECISION_SWITCHES[name]] = name
            continue
        if key in said:
            value = _agreed(said[key], (name, value), where)
        said[key] = (name, value)
    precision = said["dtype"][1] if "dtype" in said else None
    for dtype, name in excluded.items():
        if precision == dtype:
            raise ConfigError(
                f"{where}: {said['dtype'][0]} asks for {dtype} and {name} is false; give one of them"
            )
        if precision is None and (below or {}).get("dtype") == dtype:
            said["dtype"] = (name, "float32")
    return {key: value for key, (_, value) in said.items()}


def _flat(given: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    for name, value in given.items():
        if isinstance(value, dict) and name in CONTAINERS:
            yield from _flat(value)
        elif isinstance(value, dict) and name in NAMED_CONTAINERS:
            yield from ((f"{name}.{inner}", inner_value) for inner, inner_value in value.items())
        else:
            yield str(name), value


def _key_of(name: str, value: Any, where: str) -> tuple[str, Any]:
    name = name.replace("-", "_")
    alias = ALIASES.get(name)
    if alias is not None:
        if alias.boolean and not isinstance(value, bool):
            raise ConfigError(f"{where}: {name}: got {kind_of(value)}, expected true or false")
        name, value = alias.key, alias.convert(value)
    if name == "dataset" and isinstance(value, (str, list)):
        value = {"train": value}
    if name not in RunConfig.model_fields and name not in FIXED:
        raise ConfigError(f'{where}: unknown key "{name}"; {_nearest(name)}')
    return name, value


def known_names() -> list[str]:
    """Every name that a configuration may contain."""
    return [*RunConfig.model_fields, *ALIASES, *FIXED, *CONTAINERS]


def _nearest(name: str) -> str:
    close = difflib.get_close_matches(name.lower(), known_names(), n=1, cutoff=0.6)
    return f'the nearest key is "{close[0]}"' if close else "`python -m mix_core.train --help` lists the keys"


def _agreed(first: tuple[str, Any], second: tuple[str, Any], where: str) -> Any:
    """The value that two names for one key agree on; mappings unite."""
    (name, value), (other, other_value) = first, second
    if isinstance(value, dict) and isinstance(other_value, dict):
        clash = [key for key in value if key in other_value and value[key] != other_value[key]]
        if not clash:
            return {**value, **other_value}
    elif value == other_value:
        return value
    raise ConfigError(f"{where}: {name} and {other} mean the same key and differ; give one of them")


def argument_value(name: str, text: str) -> Any:
    """The value of an argument, read as the type of its key; text that does not fit stays text."""
    name = name.replace("-", "_")
    alias = ALIASES.get(name)
    if alias is not None and alias.boolean:
        return from_argument(text, bool)
    key = alias.key if alias is not None else name
    field = RunConfig.model_fields.get(key)
    return from_argument(text, field.annotation if field is not None else None)


def is_switch(name: str) -> bool:
    """Whether the key is true or false, so that `--name` alone means true."""
    name = name.replace("-", "_")
    alias = ALIASES.get(name)
    if alias is not None:
        return alias.boolean
    field = RunConfig.model_fields.get(name)
    if field is not None:
        return field.annotation in (bool, bool | None)
    return name in FIXED and any(value is False for value in FIXED[name].values)


def takes_anything(name: str) -> bool:
    """Whether the key has no say, so that `--name` may stand alone or before any value."""
    fixed = FIXED.get(name.replace("-", "_"))
    return fixed is not None and fixed.accepts is ANYTHING


def validate(values: Mapping[str, Any], origin: Mapping[str, str]) -> RunConfig:
    """Check resolved values; `origin` says for each key where it was given, for messages."""
    fixed = {key: value for key, value in values.items() if key in FIXED}
    for key, value in fixed.items():
        FIXED[key].check(key, value, origin.get(key, "configuration"))
    try:
        return RunConfig.model_validate({key: value for key, value in values.items() if key not in FIXED})
    except ValidationError as error:
        raise ConfigError(_one_line(error, origin)) from None


def _one_line(error: ValidationError, origin: Mapping[str, str]) -> str:
    errors = error.errors(include_url=False)
    head = errors[0]["loc"][:1]
    # A value that fits no branch of a union gives an error for each: the deepest says most, and of those a
    # misspelt key says more than the one that is missing for it.
    about = [e for e in errors if e["loc"][:1] == head]
    first = max(about, key=lambda e: (len(e["loc"]), e["type"] == "extra_forbidden"))
    if not head:
        return str(first["msg"]).removeprefix("Value error, ")
    path = [part for part in first["loc"] if isinstance(part, int) or part.isidentifier()]
    path = [
        part for part in path if part not in ("str", "DatasetEntry")
    ]  # pydantic names the branch of a union
    key = str(path[0])
    shown = key + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path[1:])
    where = origin.get(key, "configuration")
    if first["type"] == "extra_forbidden":
        return f'{where}: unknown key "{shown}" with {kind_of(first["input"])}; remove it'
    if first["type"] == "missing":
        return f"{where}: {shown} is missing"
    return f"{where}: {shown}: got {kind_of(first['input'])}, expected {expected_of(RunConfig, path)}"
