"""The model families: found through entry points, so that a package adds one as a folder of its own.

Importing a family imports no paddle; building its model does.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np

from mix_core.errors import BadInputError
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
    tiny: Callable[[], TinyModel] | None = None
    """A small model and a batch for it, to try a device with; imports no paddle."""
    outline: Callable[[Any], Outline] | None = None
    """Configuration -> the model in figures, for plans and reports of speed; imports no paddle."""
    sizes: tuple[PublishedSize, ...] = ()
    """Published members, for plans without a model folder."""


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


def load_model(folder: Path, *, random_init: bool = False, seed: int = 0) -> tuple[ModelFamily, Any, Any]:
    """Build the folder's model and fill in its weights, or random values -> (family, config, model).

    The model is in evaluation mode. Raises BadInputError and WeightsError.
    """
    folder = Path(folder)
    source = read_config(folder)
    family = get_family(source["model_type"])
    config = family.config_from_dict(source)
    model = family.build(config)
    if random_init:
        family.init_weights(model, seed)
    else:
        family.load_weights(model, folder)
    model.eval()
    return family, config, model
