"""The tutorial of docs/authoring.md as programs: its chapters, and the plugin as it stands after each.

A chapter's Python goes into the generated plugin as the page says: what bears a name that is there already
replaces it, the rest is added, imports are united. A json block is operators.json, a toml block that begins
with `device` is conformance.toml.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mix_core.scaffold.new_device import write_device

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "authoring.md").read_text(encoding="utf-8")
OVERLAY = ROOT / "tests" / "plugins" / "tuned_attention"
_CODE = re.compile(r"^# exit code (\d+)")


@dataclass(frozen=True)
class Chapter:
    """A part of the page between two headings."""

    number: int
    title: str
    text: str

    def blocks(self, language: str) -> list[str]:
        return re.findall(rf"^```{language}\n(.*?)^```$", self.text, re.MULTILINE | re.DOTALL)

    def commands(self) -> Iterator[tuple[list[str], int]]:
        """The words after `mix-core` of each command, and the exit code that the page expects."""
        for line in "".join(self.blocks("shell")).splitlines():
            command, _, comment = line.partition("#")
            code = _CODE.match(f"#{comment}")
            words = shlex.split(command)
            if words[0] == "mix-core" and words[1] != "new-device":
                yield words[1:], int(code[1]) if code else 0


def chapters() -> list[Chapter]:
    """The numbered chapters, in order."""
    parts = re.split(r"^## (?=\d+\. )", PAGE.partition("\n## Overlays")[0], flags=re.MULTILINE)[1:]
    heads = [re.match(r"(\d+)\. (.*)\n", part) for part in parts]
    return [Chapter(int(head[1]), head[2], part[head.end() :]) for head, part in zip(heads, parts)]


def overlay_chapter() -> Chapter:
    text = PAGE.partition("\n## Overlays")[2].partition("\n## ")[0]
    return Chapter(0, "Overlays", text)


def plugin_after(last: int, folder: Path) -> Path:
    """Generate the device acme in `folder`, put chapters 1 to `last` into it, and return its folder."""
    files = {path.name: path for path in write_device("acme", folder)}
    package = files["plugin.py"].parent
    for chapter in chapters()[:last]:
        for block in chapter.blocks("python"):
            files["plugin.py"].write_text(put(files["plugin.py"].read_text(), block), encoding="utf-8")
        for block in chapter.blocks("json"):
            (package / "operators.json").write_text(block, encoding="utf-8")
        for block in chapter.blocks("toml"):
            if block.startswith("device"):
                files["conformance.toml"].write_text(block, encoding="utf-8")
    return folder / "mix_device_acme"


def put(module: str, block: str) -> str:
    """The module with the statements of the block."""
    lines = block.splitlines()
    for node in ast.parse(block).body:
        first = min([node.lineno, *(mark.lineno for mark in getattr(node, "decorator_list", ()))])
        text = "\n".join(lines[first - 1 : node.end_lineno])
        there = {_name(old): old for old in ast.parse(module).body}
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            at = next(old.lineno for old in ast.parse(module).body if isinstance(old, ast.ImportFrom))
            module = _replaced(module, at, at - 1, f"{text}\n")
        elif _name(node) in there:
            old = there[_name(node)]
            start = min([old.lineno, *(mark.lineno for mark in getattr(old, "decorator_list", ()))])
            module = _replaced(module, start, old.end_lineno, f"{text}\n")
        else:
            module += f"\n\n{text}\n"
    return module


def _name(node: ast.stmt) -> str | None:
    if isinstance(node, ast.Assign):
        return ast.unparse(node.targets[0])
    return getattr(node, "name", None)


def _replaced(module: str, first: int, last: int, text: str) -> str:
    """Lines `first` to `last`, counted from 1, replaced by `text`."""
    lines = module.splitlines(keepends=True)
    return "".join([*lines[: first - 1], text, *lines[last:]])
