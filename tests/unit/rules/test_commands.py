"""Commands, options and configuration keys are frozen: a change is made on purpose, in the golden file."""

from __future__ import annotations

import difflib
import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def maker(root: Path):
    """The script that makes the golden file, as a module."""
    spec = importlib.util.spec_from_file_location("make_commands", root / "tests/goldens/make_commands.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def differences(golden: str, now: str) -> list[str]:
    lines = difflib.unified_diff(golden.splitlines(), now.splitlines(), "golden", "now", lineterm="", n=0)
    return [line for line in lines if not line.startswith(("---", "+++", "@@"))]


def test_commands_options_and_keys_are_the_frozen_ones(maker):
    changed = differences(maker.TARGET.read_text(encoding="utf-8"), maker.command_text())
    assert changed == [], "if this is on purpose: python tests/goldens/make_commands.py, and CHANGELOG.md"


def test_golden_holds_the_options_of_the_design(maker):
    lines = set(maker.TARGET.read_text(encoding="utf-8").splitlines())
    expected = (
        "mix-core devices --json",
        "mix-core explain DEVICE required",
        "mix-core explain --simulate",
        "mix-core doctor --json",
        "mix-core run --device VALUE",
        "mix-core data digits --out VALUE required",
        "alias train_batch_size -> per_device_train_batch_size",
    )
    assert [line for line in expected if line not in lines] == []


def test_check_sees_a_changed_option(maker):
    import typer

    app = typer.Typer(add_completion=False)

    @app.command()
    def devices(json: bool = typer.Option(False, "--json"), name: str = typer.Argument("")) -> None:
        """Two parameters."""

    before = "\n".join(maker.command_lines(typer.main.get_command(app), "mix-core"))
    assert before.splitlines() == ["mix-core", "mix-core --json", "mix-core NAME"]
    assert differences(before, before.replace("--json", "--JSON")) == ["-mix-core --json", "+mix-core --JSON"]
