"""Run configurations that ship with mix-core: a folder each, with recipe.yaml and what it needs beside it."""

from __future__ import annotations

from pathlib import Path

from mix_core.errors import ConfigError

FOLDER = Path(__file__).parent


def recipe_names() -> list[str]:
    """The recipes there are, by name."""
    return sorted(path.parent.name for path in FOLDER.glob("*/recipe.yaml"))


def recipe_file(name: str) -> Path:
    """The configuration of a recipe.

    Raises:
        ConfigError: there is no such recipe; the ones there are are named.
    """
    if name not in recipe_names():
        raise ConfigError(f'no recipe "{name}"; there are: {", ".join(recipe_names())}')
    return FOLDER / name / "recipe.yaml"
