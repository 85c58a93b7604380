"""What the rule tests look at: the text of the repository's own files, by path relative to its root."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
CODE = ("mix_core", "mix_device_npu", "mix_device_xpu", "mix_device_gpu")
EVERYTHING = (*CODE, "csrc", "tests", "benchmarks", "scripts", "docs", ".ci")
ROOT_FILES = ("Makefile", "README.md", "README.zh.md", "CHANGELOG.md", "pyproject.toml")
TEXT = {".py", ".pyi", ".md", ".toml", ".yaml", ".yml", ".json", ".cc", ".cpp", ".h", ".sh", ".txt", ""}
BUILT = {"__pycache__", "build", "dist", ".pytest_cache"}


def texts(folders: tuple[str, ...], suffixes: set[str]) -> dict[str, str]:
    found = {}
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            parts = set(path.relative_to(ROOT).parts)
            if path.suffix in suffixes and path.is_file() and not parts & BUILT:
                found[str(path.relative_to(ROOT))] = path.read_text(encoding="utf-8")
    return found


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def core_sources() -> dict[str, str]:
    """Python files of mix_core."""
    return texts(("mix_core",), {".py"})


@pytest.fixture(scope="session")
def plugin_sources() -> dict[str, str]:
    """Python files of the device packages."""
    return texts(CODE[1:], {".py"})


@pytest.fixture(scope="session")
def shipped_sources(core_sources, plugin_sources) -> dict[str, str]:
    return core_sources | plugin_sources


@pytest.fixture(scope="session")
def python_sources() -> dict[str, str]:
    """Every Python file of the repository."""
    return texts(EVERYTHING, {".py"})


@pytest.fixture(scope="session")
def all_texts() -> dict[str, str]:
    """Every text file of the repository."""
    single = {
        name: (ROOT / name).read_text(encoding="utf-8") for name in ROOT_FILES if (ROOT / name).exists()
    }
    return texts(EVERYTHING, TEXT) | single
