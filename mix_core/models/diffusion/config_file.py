"""config.json of a diffusers model to and from a dataclass; imports no paddle.

A published file lacks the keys that came after it, and relies on the library's defaults for them: these are
the defaults of the dataclasses. What the network must know and no library assumes has none. A key that asks
for something that is not built is an error that names it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar

from mix_core.errors import BadInputError

VERSION = "0.42.1"
"""Of diffusers, whose keys these are."""

Config = TypeVar("Config")


def _integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _all(kind: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, tuple) and bool(value) and all(kind(one) for one in value)


def _text(value: Any) -> bool:
    return isinstance(value, str)


_IS: dict[str, Callable[[Any], bool]] = {
    "bool": lambda value: isinstance(value, bool),
    "int": _integer,
    "int | None": lambda value: value is None or _integer(value),
    "int | tuple[int, ...]": lambda value: _integer(value) or _all(_integer)(value),
    "float": lambda value: _integer(value) or isinstance(value, float),
    "float | None": lambda value: value is None or _integer(value) or isinstance(value, float),
    "str": _text,
    "str | None": lambda value: value is None or _text(value),
    "tuple[int, ...]": _all(_integer),
    "tuple[int, ...] | tuple[()]": lambda value: value == () or _all(_integer)(value),
    "tuple[str, ...]": _all(_text),
}


def read(kind: type[Config], source: Mapping[str, Any], class_name: str, built: Mapping[str, Any]) -> Config:
    """The dataclass from a parsed config.json.

    `built`: keys that are no fields, with the only value that is built. Raises BadInputError.
    """
    found = source.get("_class_name", class_name)
    if found != class_name:
        raise BadInputError(f"config.json is of a {found}, expected a {class_name}")
    values: dict[str, Any] = {}
    known = {field.name for field in fields(kind)}
    for field in fields(kind):
        value = source.get(field.name, field.default)
        if value is MISSING:
            raise BadInputError(f"config.json of the {class_name} lacks {field.name}; no default is assumed")
        value = tuple(value) if isinstance(value, list) else value
        if not _IS[str(field.type)](value):
            raise BadInputError(
                f"config.json of the {class_name} has {field.name} = {value!r}, expected {field.type}"
            )
        values[field.name] = value
    for key, value in source.items():
        if key in known or key.startswith("_"):
            continue
        value = tuple(value) if isinstance(value, list) else value
        expected = built.get(key)
        if value != expected and not (value in (None, False, ()) and not expected):
            raise BadInputError(
                f"config.json of the {class_name} has {key} = {value!r}; only {expected!r} is built"
            )
    return kind(**values)


def written(config: Any, class_name: str, built: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json holds, as diffusers writes and reads it."""
    given = {field.name: getattr(config, field.name) for field in fields(config)}
    as_json = {key: list(value) if isinstance(value, tuple) else value for key, value in given.items()}
    return {"_class_name": class_name, "_diffusers_version": VERSION, **built, **as_json}


def read_json(folder: Path) -> dict[str, Any]:
    """The folder's parsed config.json. Raises BadInputError."""
    path = Path(folder) / "config.json"
    try:
        source = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInputError(
            f"{folder} has no config.json; expected the folder of one part of a diffusers model"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(source, dict) or not isinstance(source.get("_class_name"), str):
        raise BadInputError(f"{path} has no _class_name; expected the config.json of a diffusers model")
    return source


def write_json(folder: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=2, sort_keys=True)
    (Path(folder) / "config.json").write_text(text + "\n", encoding="utf-8")


def check(right: bool, class_name: str, found: str, expected: str) -> None:
    """Raise BadInputError unless `right`: what the file has, and what was expected."""
    if not right:
        raise BadInputError(f"config.json of the {class_name} has {found}; expected {expected}")
