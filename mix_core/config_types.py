"""What a key's type means in words, and how the text of an argument becomes a value of that type."""

from __future__ import annotations

import types
import typing
from collections.abc import Sequence
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mix_core.config_text import parse_yaml
from mix_core.errors import ConfigError

TRUE_WORDS = ("true", "yes", "on", "1")
FALSE_WORDS = ("false", "no", "off", "0")
NULL_WORDS = ("null", "none", "~")

_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
_BOUNDS = {Ge: ("at least", "ge"), Gt: ("above", "gt"), Le: ("at most", "le"), Lt: ("below", "lt")}


def _members(annotation: Any) -> list[Any]:
    """The alternatives of a union; the type itself otherwise."""
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for alternative in get_args(annotation) for member in _members(alternative)]
    return [annotation]


def _bare(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is typing.Annotated else annotation


def describe_type(annotation: Any, bounds: Sequence[Any] = ()) -> str:
    """`int` with Ge(1) or None -> "a whole number of at least 1, or null"."""
    texts = []
    for member in _members(annotation):
        if get_origin(member) is typing.Annotated:
            member, *own = get_args(member)
            texts.append(describe_type(member, own))
        elif get_origin(member) is Literal:
            texts.append("one of " + ", ".join(str(value) for value in get_args(member)))
        elif get_origin(member) is list:
            inner = get_args(member)[0]
            texts.append(_list_of(inner))
        elif member is type(None):
            texts.append("null")
        elif isinstance(member, type) and issubclass(member, BaseModel):
            texts.append('{"train": ..., "eval": ...}')
        else:
            texts.append(_WORDS.get(member, str(member)) + _bounded(bounds))
    return ", or ".join([", ".join(texts[:-1]), texts[-1]]) if len(texts) > 1 else texts[0]


def _list_of(inner: Any) -> str:
    if get_origin(inner) is Literal:
        return "a list of " + ", ".join(map(str, get_args(inner)))
    if _bare(inner) is int:
        return "a list of whole numbers" + _bounded(get_args(inner)[1:])
    if get_origin(inner) is list:
        return f"a list of lists, each {_list_of(get_args(inner)[0])}"
    return "a list of texts" if inner is str else 'a list of {"data_files": FILE, ...}'


def _bounded(bounds: Sequence[Any]) -> str:
    parts = []
    for bound in bounds:
        if type(bound) in _BOUNDS:
            words, attribute = _BOUNDS[type(bound)]
            parts.append(f"{words} {getattr(bound, attribute):g}")
    return " of " + " and ".join(parts) if parts else ""


def expected_of(model: type[BaseModel], path: Sequence[int | str]) -> str:
    """What is expected at a path of keys and list positions within a model, in words."""
    field = model.model_fields[str(path[0])]
    rest = [part for part in path[1:] if not isinstance(part, int)]
    if rest:
        for member in _members(field.annotation):
            inner = get_args(member)[0] if get_origin(member) is list else member
            if isinstance(inner, type) and issubclass(inner, BaseModel) and rest[0] in inner.model_fields:
                return expected_of(inner, rest)
    return describe_type(field.annotation, field.metadata)


def from_argument(text: str, annotation: Any) -> Any:
    """Read an argument's text as a value of this type; None: of whatever it looks like.

    A text that does not fit comes back as it is, so that validation names the key and what it expects.
    """
    if annotation is None:
        return _looks_like(text)
    kinds = [_bare(member) for member in _members(annotation)]
    if type(None) in kinds and text.lower() in NULL_WORDS:
        return None
    if bool in kinds:
        word = text.lower()
        return True if word in TRUE_WORDS else False if word in FALSE_WORDS else text
    for kind in (int, float):
        if kind in kinds:
            try:
                return kind(text)
            except ValueError:
                continue
    if any(get_origin(kind) is list or _is_model(kind) for kind in kinds):
        if text[:1] in "[{":
            return parse_yaml(text, f"argument {text}")
        only_lists = str not in kinds and not any(_is_model(kind) for kind in kinds)
        return [part for part in text.split(",") if part] if only_lists else text
    return text


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _looks_like(text: str) -> Any:
    try:
        return parse_yaml(text, "argument")
    except ConfigError:
        return text


def default_text(field: FieldInfo) -> str:
    """A key's default as one would type it."""
    default = field.default
    if isinstance(default, BaseModel) or default is None:
        return "null"
    if isinstance(default, list):
        return ",".join(map(str, default))
    return str(default).lower() if isinstance(default, bool) else str(default)
