"""docs/authoring.md: its code makes a plugin, it names all there is, and shows what is really printed.

tests/integration/test_authoring.py runs its commands.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mix_core import plugin_api
from mix_core.device import hookspec
from tests.builders.tutorial import OVERLAY, PAGE, chapters, overlay_chapter, plugin_after, put

HOOKS = [name for name in vars(hookspec) if name.startswith("mix_")]
COMMAND = ["-m", "mix_core.cli.main"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plugin as the tutorial leaves it."""
    return plugin_after(len(chapters()), tmp_path_factory.mktemp("tutorial"))


def test_chapters_are_numbered_and_each_asks_the_suite():
    assert [chapter.number for chapter in chapters()] == list(range(1, 14))
    silent = [c.number for c in chapters() if not any("conformance" in words for words, _ in c.commands())]
    assert silent == [11], "checks are the doctor's"


def test_every_hook_has_an_example_and_every_public_name_is_explained(finished: Path):
    assert [name for name in HOOKS if f"| `{name}(" not in PAGE] == []
    code = (finished / "src/mix_device_acme/plugin.py").read_text()
    assert [name for name in HOOKS if f"@hookimpl\ndef {name}(" not in code] == []
    words = set(re.findall(r"\w+", PAGE))
    assert [name for name in plugin_api.__all__ if name not in words] == []


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_says_when_it_runs_and_what_happens_without_it(name: str):
    [row] = [line for line in PAGE.splitlines() if line.startswith(f"| `{name}(")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert len(cells) == 6 and all(cells)
    anchor = re.fullmatch(r"\[(\d+)\]\(#(.*)\)", cells[5])
    chapter = chapters()[int(anchor[1]) - 1]
    slug = re.sub(r"[^\w -]", "", f"{chapter.number}. {chapter.title}".lower()).replace(" ", "-")
    assert anchor[2] == slug
    assert name in chapter.text


def test_the_plugin_loads_after_each_chapter(start, tmp_path: Path):
    for chapter in chapters():
        (tmp_path / str(chapter.number)).mkdir()
        plugin = plugin_after(chapter.number, tmp_path / str(chapter.number))
        said = start([*COMMAND, "explain", "acme"], plugins=[str(plugin)])
        assert said.returncode == 0, (chapter.title, said.stderr)


def test_the_shown_settings_are_what_explain_prints(start, finished: Path):
    done = start([*COMMAND, "explain", "acme"], plugins=[str(finished)])
    printed = [line.split() for line in done.stdout.splitlines()]
    [block] = [block for chapter in chapters() for block in chapter.blocks("text")]
    shown = [line.split() for line in block.splitlines()]
    assert shown[0] == printed[0] and len(shown) > 3
    assert [line for line in shown if line not in printed] == []


def test_the_probe_finds_cards_and_a_missing_driver(start, finished: Path, acme_cards):
    cards = acme_cards(2)
    done = start([*COMMAND, "devices"], plugins=[str(finished)], ACME_DEV=cards)
    assert f"2 cards in {cards}" in done.stdout
    (Path(cards) / "acmectl").unlink()
    done = start([*COMMAND, "devices"], plugins=[str(finished)], ACME_DEV=cards)
    assert f"{cards}/acmectl is missing: load the driver" in done.stdout


def test_the_shown_entry_points_are_the_generated_ones(finished: Path):
    [block] = chapters()[0].blocks("toml")
    assert block in (finished / "pyproject.toml").read_text()


def test_the_shown_overlay_is_the_one_that_is_tested():
    files = "\n".join(path.read_text() for path in [OVERLAY / "pyproject.toml", *OVERLAY.rglob("*.py")])
    shown = overlay_chapter().blocks("python") + overlay_chapter().blocks("toml")
    assert len(shown) == 2 and [block for block in shown if block not in files] == []


def test_put_replaces_what_is_there_and_adds_the_rest():
    module = '"""Text."""\nfrom a import b\n\nX = 1\n\n\n@mark\ndef f():\n    return X\n'
    block = "import c\n\nX = 2\n\n\n@mark\ndef f():\n    return 3\n\n\ndef g():\n    return X\n"
    wanted = (
        '"""Text."""\nimport c\nfrom a import b\n\nX = 2\n\n\n@mark\ndef f():\n    return 3\n'
        "\n\ndef g():\n    return X\n"
    )
    assert put(module, block) == wanted
