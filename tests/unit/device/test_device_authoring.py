"""docs/authoring.md shows code that exists, names everything there is, and prints what is really printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mix_core import plugin_api
from mix_core.device import hookspec

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "authoring.md").read_text(encoding="utf-8")
SOURCES = "\n".join(
    path.read_text(encoding="utf-8")
    for folder in ("acme", "acme_overlay")
    for path in sorted((ROOT / "tests/plugins" / folder).rglob("*"))
    if path.suffix in (".py", ".toml")
)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", blocks("python") + blocks("toml"))
def test_shown_code_is_the_code_that_is_tested(block: str):
    assert block in SOURCES


def test_every_hook_and_every_public_name_is_explained():
    hooks = [name for name in vars(hookspec) if name.startswith("mix_")]
    assert [name for name in hooks if f"| `{name}(" not in PAGE] == []
    words = set(re.findall(r"\w+", PAGE))
    assert [name for name in plugin_api.__all__ if name not in words] == []


def test_the_shown_settings_are_what_explain_prints(start):
    done = start(["-m", "mix_core.cli.main", "explain", "acme"], plugins=["acme"])
    printed = [line.split() for line in done.stdout.splitlines()]
    shown = [line.split() for line in blocks("text")[0].splitlines()]
    assert shown[0] == printed[0] and len(shown) > 3
    assert [line for line in shown if line not in printed] == []
