"""Put plugin distributions where importlib.metadata finds them, without running an installer.

They are those of this folder, or the product's own. For each one a `.dist-info` folder with its metadata and
entry points is written, as an installer would; the code stays in its `src` folder. tests/integration installs
the real ones with pip.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, where pytest brings tomli
    import tomli as tomllib

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]


def folder_of(name: str) -> Path:
    """A plugin of this folder, or one of the product's own."""
    return FOLDER / name if (FOLDER / name).is_dir() else ROOT / name


def entry_names(names: Iterable[str]) -> list[str]:
    """The entry points of plugin distributions, devices and overlays alike."""
    found = []
    for name in names:
        for points in _project(name).get("entry-points", {}).values():
            found += list(points)
    return found


def _project(name: str) -> dict[str, Any]:
    return tomllib.loads((folder_of(name) / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def install(names: Iterable[str], target: Path) -> list[str]:
    """Write the metadata of the named folders into `target`; returns what has to be on the import path."""
    path = [str(target)]
    for name in names:
        project = _project(name)
        folder = target / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        folder.mkdir(parents=True, exist_ok=True)
        metadata = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        (folder / "METADATA").write_text(metadata, encoding="utf-8")
        lines = []
        for group, points in project["entry-points"].items():
            lines += [f"[{group}]", *(f"{point} = {value}" for point, value in points.items())]
        (folder / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        path.append(str(folder_of(name) / "src"))
    return path
