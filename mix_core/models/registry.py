"""The model families: found through entry points, so that a package adds one as a folder of its own.

Importing a family imports no paddle; building its model does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import lru_cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np

from mix_core.errors import BadInputError
from mix_core.models.common.tensor_plan import TensorPlan
from mix_core.models.outline import Outline, PublishedSize

GROUP = "mix_core.models"


@dataclass(frozen=True)
class TinyModel:
    """A member of a family that is small, and asks a device for the same operators as the published ones."""

    config: dict[str, Any]
    """Its config.json, for `config_from_dict`. Head sizes are the published ones: kernels depend on them."""
    batch: dict[str, np.ndarray]
    """Labelled rows with everything that the family takes, as the processor would give them."""


def _all_rows(model: Any, name: str) -> None:
    return None


@dataclass(frozen=True, kw_only=True)
class ModelFamily:
    """What mix-core needs to know of a family of models."""

    name: str
    """As users and error texts name it."""
    model_types: tuple[str, ...]
    """Values of `model_type` in config.json that this family reads."""
    config_from_dict: Callable[[dict[str, Any]], Any]
    """Parsed config.json -> the family's configuration. Raises BadInputError."""
    build: Callable[[Any], Any]
    """Configuration -> model; imports paddle. Parameters hold zeros (norms: ones) until they are loaded."""
    init_weights: Callable[[Any, int], None]
    """(model, seed): fill in random first values."""
    load_weights: Callable[[Any, Path], None]
    """(model, folder): fill it from the published files. Raises WeightsError."""
    save_weights: Callable[..., None]
    """(model, folder, max_shard_bytes=...): write the published layout."""
    write_config: Callable[..., None]
    """(configuration, folder, dtype="float32"): write config.json as published; the dtype is the weights'."""
    load_processor: Callable[[Path], Any]
    """Folder -> the processor of text, pictures and videos; imports no paddle."""
    published_name: Callable[[str], str] = str
    """A parameter's published name, where the model names it otherwise or has part of it: patterns of the
    configuration (freezing, LoRA) are matched with published names."""
    stored_name: Callable[[str], str] = str
    """A name in a file, in any layout that the family reads -> the published one."""
    slots: Callable[[Any], dict[str, Any]] | None = None
    """Model -> its `Slot`s by parameter, where `slots_of` alone does not know their published shapes."""
    part_rows: Callable[[Any, str], np.ndarray | None] = _all_rows
    """(model, parameter) -> which rows of the published matrix a parameter has that shares its published name
    with others; None: they stand one below the other, in the model's order."""
    configured: Callable[[Any, Mapping[str, Any]], Any] | None = None
    """(configuration, keys of a run that change what config.json says) -> the changed configuration, where
    the family has such keys. Raises ConfigError."""
    tiny: Callable[[], TinyModel] | None = None
    """A small model and a batch for it, to try a device with; imports no paddle."""
    outline: Callable[[Any], Outline] | None = None
    """Configuration -> the model in figures, for plans and reports of speed; imports no paddle."""
    tensor_plan: TensorPlan | None = None
    """Which layers ranks may share (tensor parallelism); None: none."""
    sizes: tuple[PublishedSize, ...] = ()
    """Published members, for plans without a model folder."""

    def with_changes(self, keys: Mapping[str, Any]) -> ModelFamily:
        """The family as it reads config.json under these keys of a run."""
        configured = self.configured
        if configured is None or not keys:
            return self

        def config_from_dict(source: dict[str, Any]) -> Any:
            return configured(self.config_from_dict(source), keys)

        return replace(self, config_from_dict=config_from_dict)


@dataclass(frozen=True)
class Later:
    """A function or class of a module that is imported when it is called, not before: it may need paddle.

    Data workers are sent such functions, so that this is a class and no closure.
    """

    module: str
    name: str

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return getattr(import_module(self.module), self.name)(*arguments, **options)


def family_of_package(
    package: str, *, model: str, model_types: tuple[str, ...], weights: str | None = None, **fields: Any
) -> ModelFamily:
    """The family in a package whose modules have the usual names and functions.

    They are `config` (config_from_dict, config_to_dict), `model` (the class or function that `model` names),
    `processor` (load_processor), `outline` (outline), `tiny` (tiny), and `weights` (load_weights,
    save_weights, slots) unless another module is named. `fields`: more of `ModelFamily`, or others in place
    of these.
    """
    weights = weights or f"{package}.weights"

    def write_config(config: Any, folder: Path, dtype: str = "float32") -> None:
        written = import_module(f"{package}.config").config_to_dict(config, dtype)
        (Path(folder) / "config.json").write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")

    usual: dict[str, Any] = {
        "name": package.rpartition(".")[2],
        "init_weights": Later("mix_core.models.common.weights", "init_weights"),
        "config_from_dict": Later(f"{package}.config", "config_from_dict"),
        "build": Later(f"{package}.model", model),
        "load_processor": Later(f"{package}.processor", "load_processor"),
        "outline": Later(f"{package}.outline", "outline"),
        "tiny": Later(f"{package}.tiny", "tiny"),
        "write_config": write_config,
        **{name: Later(weights, name) for name in ("load_weights", "save_weights", "slots")},
    }
    return ModelFamily(model_types=model_types, **(usual | fields))


@dataclass(frozen=True)
class _Installed:
    families: dict[str, ModelFamily]
    broken: dict[str, str]
    """Entry points that could not be loaded, with the reason; they do no harm to the others."""


@lru_cache(maxsize=1)
def _installed() -> _Installed:
    found = _Installed({}, {})
    for entry in entry_points(group=GROUP):
        try:
            family = entry.load()
        except (ImportError, AttributeError, SyntaxError, TypeError, ValueError, OSError) as error:
            found.broken[entry.name] = f"{type(error).__name__}: {error}"
            continue
        if not isinstance(family, ModelFamily):
            found.broken[entry.name] = f"{entry.value} is {family!r}, not a ModelFamily"
            continue
        for other in found.families.values():
            shared = {family.name, *family.model_types} & {other.name, *other.model_types}
            if shared:
                raise BadInputError(
                    f"two packages give the model family {min(shared)!r}, {entry.value} is the second; "
                    "uninstall one"
                )
        found.families[family.name] = family
    return found


def families() -> dict[str, ModelFamily]:
    """All installed families by name."""
    return dict(_installed().families)


def get_family(name: str) -> ModelFamily:
    """Return the family with this name or `model_type`. Raises BadInputError."""
    installed = _installed()
    for family in installed.families.values():
        if name == family.name or name in family.model_types:
            return family
    broken = "".join(
        f"; {entry} could not be loaded ({reason})" for entry, reason in installed.broken.items()
    )
    known = ", ".join(sorted(installed.families))
    raise BadInputError(
        f"no model family reads model_type {name!r}; installed: {known}{broken}; the table in docs/models.md "
        "says which other models are not built, and why"
    )


def read_config(folder: Path) -> dict[str, Any]:
    """Parse the folder's config.json."""
    path = Path(folder) / "config.json"
    try:
        source = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInputError(
            f"{folder} has no config.json; expected a model folder in the published layout"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(source, dict) or not isinstance(source.get("model_type"), str):
        raise BadInputError(f"{path} has no model_type; expected the config.json of a model")
    return source


def family_of_folder(folder: Path) -> ModelFamily:
    """Return the family of the model in this folder, by its config.json."""
    return get_family(read_config(folder)["model_type"])


_SIZES = frozenset(
    (
        *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("num_key_value_heads", "depth", "embed_dim", "width", "layers", "heads", "out_hidden_size"),
    )
)


def model_sizes(folder: Path) -> dict[str, Any]:
    """What tells the model of a folder from another: its family, and widths and depths by name.

    Vocabulary, picture sizes and the like are left out, which keys of a run change. Raises BadInputError.
    """
    source = read_config(folder)
    family = get_family(source["model_type"])
    return {"family": family.name} | _sizes(family.config_from_dict(source), "")


def _sizes(config: Any, before: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in fields(config) if is_dataclass(config) else ():
        value, name = getattr(config, field.name), f"{before}{field.name}"
        if is_dataclass(value):
            found |= _sizes(value, f"{name}.")
        elif field.name in _SIZES:
            found[name] = value
    return found


def load_model(
    folder: Path,
    *,
    random_init: bool = False,
    seed: int = 0,
    keys: Mapping[str, Any] | None = None,
    divide: Callable[[ModelFamily, Any], None] | None = None,
) -> tuple[ModelFamily, Any, Any]:
    """Build the folder's model and fill in its weights, or random values -> (family, config, model).

    The model is in evaluation mode. `keys`: those of a run for `ModelFamily.with_changes`. `divide`: leaves
    this rank's part of a model that has no memory yet; what it leaves is filled in. Raises BadInputError and
    WeightsError.
    """
    folder = Path(folder)
    source = read_config(folder)
    family = get_family(source["model_type"]).with_changes(keys or {})
    config = family.config_from_dict(source)
    model = family.build(config) if divide is None else _divided(family, config, divide)
    if random_init:
        family.init_weights(model, seed)
    else:
        family.load_weights(model, folder)
    model.eval()
    return family, config, model


def _divided(family: ModelFamily, config: Any, divide: Callable[[ModelFamily, Any], None]) -> Any:
    """This rank's part of a model: the whole never takes memory."""
    import paddle

    from mix_core.models.common.weights import parameters_of, slots_of

    with paddle.LazyGuard():
        model = family.build(config)
    divide(family, model)
    stored = parameters_of((family.slots or slots_of)(model).values())  # some that never run among them
    for parameter in (*model.parameters(), *stored):
        if not parameter._is_initialized():
            parameter.initialize()
    return model
