"""docs/compatibility.toml says what every pyproject.toml and every profile say."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, where pytest brings tomli
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[3]
ROWS = tomllib.loads((ROOT / "docs" / "compatibility.toml").read_text(encoding="utf-8"))["plugin"]
FOLDERS = sorted(path.parent for path in ROOT.glob("mix_device_*/pyproject.toml"))


def project(folder: Path) -> dict:
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def bounds(requirements: list[str], name: str) -> str | None:
    """What a list of requirements asks of a distribution: `mix-core>=0.1,<0.2` gives `>=0.1,<0.2`."""
    found = [
        text.removeprefix(name)
        for text in requirements
        if text.split("[")[0].startswith((name + ">", name + "="))
    ]
    assert len(found) <= 1
    return found[0] if found else None


def test_every_plugin_has_one_row():
    assert sorted(row["name"] for row in ROWS) == sorted(project(folder)["name"] for folder in FOLDERS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["name"])
def test_a_row_says_what_the_package_requires(row: dict):
    told = project(ROOT / row["name"].replace("-", "_"))
    assert row["version"] == told["version"]
    assert row["python"] == told["requires-python"]
    assert row["mix_core"] == bounds(told["dependencies"], "mix-core")
    assert bounds(told["dependencies"], "paddlepaddle") in (None, row["paddle"])
    extras = told.get("optional-dependencies", {})
    assert row.get("simulate") == bounds(extras.get("simulate", []), "paddlepaddle")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["name"])
def test_a_row_says_what_the_profile_declares(row: dict, monkeypatch: pytest.MonkeyPatch):
    package = row["name"].replace("-", "_")
    monkeypatch.syspath_prepend(str(ROOT / package / "src"))
    before = set(sys.modules)
    profile = importlib.import_module(f"{package}.profile").PROFILE
    for module in set(sys.modules) - before:
        del sys.modules[module]
    declared = {
        "paddle": profile.paddle_versions,
        "driver": profile.driver_versions,
        "sdk": profile.sdk_versions,
    }
    assert {key: row.get(key) for key in declared} == {
        key: versions and versions.bounds for key, versions in declared.items()
    }


def test_the_core_is_inside_every_row():
    core = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for row in ROWS:
        low, high = row["mix_core"].removeprefix(">=").split(",<")
        version, *limits = (
            tuple(int(part) for part in text.split(".")) for text in (core["version"], low, high)
        )
        assert limits[0] <= version < limits[1], row["name"]
        assert row["python"] == core["requires-python"]
