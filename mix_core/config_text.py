"""From the text of a configuration file, or of arguments, to plain values; errors point at the character.

JSON and YAML, chosen by the file's ending. The guides print their samples with comments, full-width commas
and curly quotes, which no JSON reader takes: the message names line, column and the character, and what to
type.
"""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path
from typing import Any, NoReturn

import yaml

from mix_core.errors import ConfigError

REPLACEMENTS = {
    "\uff0c": ",",
    "\uff1a": ":",
    "\uff1b": ",",
    "\u3001": ",",
    "\u3002": ".",
    "\uff08": "(",
    "\uff09": ")",
    "\uff5b": "{",
    "\uff5d": "}",
    "\u3010": "[",
    "\u3011": "]",
    "\u201c": '"',
    "\u201d": '"',
    "\u201e": '"',
    "\uff02": '"',
    "\u2018": '"',
    "\u2019": '"',
    "'": '"',
    "`": '"',
}
"""Characters that editors and input methods put where JSON wants the plain one."""

SPACES = {"\u00a0", "\u3000", "\u2003", "\u2002", "\u200b", "\ufeff"}


def read_config_file(path: Path) -> dict[str, Any]:
    """The mapping in a .json, .yaml or .yml file.

    Raises:
        ConfigError: no such file, another ending, not UTF-8, not well-formed, or not a mapping.
    """
    if path.suffix not in (".json", ".yaml", ".yml"):
        raise ConfigError(f"{path}: a configuration ends in .json, .yaml or .yml")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"no configuration file {path}; give the path of a .json or .yaml file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: byte {error.start} is not UTF-8; save the file in that encoding"
        ) from error
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    value = parse_json(text, str(path)) if path.suffix == ".json" else parse_yaml(text, str(path))
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: got {kind_of(value)}, expected a mapping of keys to values")
    return value


def parse_json(text: str, name: str) -> Any:
    """Parse JSON; `name` stands at the head of an error message."""
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: _without_repeats(pairs, name))
    except json.JSONDecodeError as error:
        _refuse(text, error.pos, error.msg, name)


def _without_repeats(pairs: list[tuple[str, Any]], name: str) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ConfigError(f'{name}: the key "{twice}" is given twice; keep one')
    return value


def _refuse(text: str, position: int, reason: str, name: str) -> NoReturn:
    """Say where JSON ends to be JSON, which character stands there and what to write instead."""
    while position < len(text) and text[position] in " \t\r\n" and "control" not in reason:
        position += 1
    line = text.count("\n", 0, position) + 1
    column = position - (text.rfind("\n", 0, position) + 1) + 1
    where = f"{name} line {line} column {column}"
    if position >= len(text):
        raise ConfigError(f"{where}: the file ends here, expected more: a bracket or a quote is not closed")
    char = text[position]
    raise ConfigError(f"{where}: got {describe_char(char)}; {_advice(text, position, char, reason)}")


def _advice(text: str, position: int, char: str, reason: str) -> str:
    before = text[:position].rstrip()[-1:]
    if char == "#" or text.startswith(("//", "/*"), position):
        return "JSON has no comments: remove it, or save the file as .yaml"
    if char in SPACES:
        return "type an ordinary space"
    if char in REPLACEMENTS:
        return f"type {REPLACEMENTS[char]}"
    if char in "}]" and before == ",":
        return "remove the comma before it"
    if text.startswith(("True", "False", "None"), position):
        return "JSON writes true, false and null"
    if text.startswith("...", position):
        return "the dots of a guide stand for keys left out: remove them"
    if "',' delimiter" in reason:
        return "a comma is missing before it"
    if "':' delimiter" in reason:
        return "a colon is missing between the key and its value"
    if "property name" in reason:
        return 'expected a key in "quotes"'
    if "Extra data" in reason:
        return "the file's value ended before it: remove what follows"
    if "control" in reason:
        return 'a text may not go over the end of its line: close the quote, or write "\\n"'
    return "expected a value"


def describe_char(char: str) -> str:
    """A character as a message shows it: `"，" (U+FF0C, FULLWIDTH COMMA)`; plain ASCII without its number."""
    if char in "\n\r":
        return "the end of the line"
    shown = f"'{char}'" if char == '"' else f'"{char}"'
    if char.isascii() and char.isprintable():
        return shown
    name = unicodedata.name(char, "no name")
    return f"{shown} (U+{ord(char):04X}, {name})"


class _Loader(yaml.SafeLoader):
    """YAML in which `1e-5` is a number (YAML 1.1, PyYAML's, makes it a text) and a key is given once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = key_node.value
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f'the key "{key}" is given twice; keep one', problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def parse_yaml(text: str, name: str) -> Any:
    """Parse YAML without tags that build objects; `name` stands at the head of an error message."""
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name} line {mark.line + 1} column {mark.column + 1}" if mark else name
        char = text[mark.index : mark.index + 1] if mark else ""
        got = f"got {describe_char(char)}; " if char in REPLACEMENTS or char in SPACES else ""
        raise ConfigError(f"{where}: {got}{error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not YAML: {' '.join(str(error).split())}") from error
    finally:
        loader.dispose()


def kind_of(value: Any) -> str:
    """What a JSON or YAML value is, in words that follow `got`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"{'true' if value else 'false'}"
    if isinstance(value, (int, float)):
        return f"the number {value}"
    if isinstance(value, str):
        shown = value if len(value) <= 40 else value[:37] + "..."
        return f'the text "{shown}"'
    return "a list" if isinstance(value, list) else "a mapping" if isinstance(value, dict) else repr(value)
