"""Values of a published config.json, checked; every error names key, value and what is expected."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mix_core.errors import BadInputError


def take(source: dict[str, Any], key: str, where: str, kind: type) -> Any:
    """The value of a key that must be there; an int serves as a float. Raises BadInputError."""
    value = source.get(key)
    if value is None:
        raise BadInputError(f"config.json lacks {where}{key}; the model needs it, and no default is assumed")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise BadInputError(f"config.json has {where}{key} = {value!r}, expected {kind.__name__}")
    return value


def whole(value: float) -> float | int:
    """A number as the file writes it: 2 for 2.0."""
    return int(value) if value == int(value) else value


def check_sizes(part: Any, keys: Iterable[str], where: str) -> None:
    for key in keys:
        if getattr(part, key) < 1:
            raise BadInputError(f"config.json has {where}{key} = {getattr(part, key)}, expected 1 or more")


def check_multiple(what: str, size: int, divisor: int) -> None:
    if size < 1 or size % divisor:
        raise BadInputError(f"config.json has {what} = {size}, which must be a multiple of {divisor}")
