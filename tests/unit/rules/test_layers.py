"""Dependencies point one way, and a device plugin sees one module of the core.

cli, train -> training, inference -> models, data, schedulers -> ops -> device. Imports inside functions
count too: a lazy import in the wrong direction is still the wrong direction.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

LAYERS = (
    ("errors",),
    ("device", "plugin_api", "recipes"),
    ("ops",),
    ("models", "data", "schedulers"),
    ("training", "inference", "config", "convert", "planning"),
    ("cli", "train", "conformance", "scaffold", "recipes.*"),
)
RANK = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}
# One thing seen from two sides: plugin_api is the device layer's face, mix_core.train the command's.
FACES = ({"device", "plugin_api"}, {"cli", "train"})
TOP = len(LAYERS)  # mix_core/__init__.py: the public face, above all


def imported_modules(path: str, text: str) -> Iterator[tuple[int, str]]:
    """(line, dotted module) of every import; relative ones are resolved by the file's path."""
    package = path.removesuffix(".py").replace("/", ".").split(".")[:-1]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join(base + ([node.module] if node.module else []))
            yield node.lineno, module
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def room_of(module: str) -> str | None:
    """`mix_core.models.registry` -> `models`; None for the package itself and for other packages."""
    first, *inner = module.split(".")
    room = "config" if inner and inner[0].startswith("config_") else "".join(inner[:1])
    if room == "recipes" and len(inner) > 2:
        room = "recipes.*"  # a script beside a recipe that makes its files
    return room if first == "mix_core" and room in RANK else None


def upward_imports(sources: dict[str, str]) -> list[str]:
    found = set()
    for path, text in sources.items():
        own = room_of(path.removesuffix(".py").replace("/", "."))
        rank = RANK[own] if own else TOP
        for line, module in imported_modules(path, text):
            target = room_of(module)
            if target and RANK[target] > rank:
                found.add(f"{path}:{line} ({own}) imports {target}, which lies above it")
    return sorted(found)


def mutual_imports(sources: dict[str, str]) -> list[str]:
    """Pairs of rooms of one layer that import each other, so that neither can be read alone."""
    edges: dict[tuple[str, str], str] = {}
    for path, text in sources.items():
        own = room_of(path.removesuffix(".py").replace("/", "."))
        for line, module in imported_modules(path, text):
            target = room_of(module)
            if own and target and own != target:
                edges.setdefault((own, target), f"{path}:{line}")
    return [
        f"{a} and {b} import each other: {edges[a, b]}, {edges[b, a]}"
        for a, b in edges
        if a < b and (b, a) in edges and {a, b} not in FACES
    ]


def rooms_without_a_layer(sources: dict[str, str]) -> list[str]:
    modules = {path.removesuffix(".py").replace("/", ".") for path in sources}
    return sorted(module for module in modules if room_of(module) is None and module != "mix_core.__init__")


def private_imports_of_plugins(sources: dict[str, str]) -> list[str]:
    """Imports of mix_core by a plugin that do not come from mix_core.plugin_api."""
    found = []
    for path, text in sources.items():
        for node in ast.walk(ast.parse(text)):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                inner = node.module == "mix_core"
                modules = [f"mix_core.{alias.name}" for alias in node.names] if inner else [node.module or ""]
            for module in modules:
                if module.split(".")[0] == "mix_core" and module != "mix_core.plugin_api":
                    found.append(
                        f"{path}:{node.lineno} imports {module}; only mix_core.plugin_api is for plugins"
                    )
    return found


def test_imports_point_downward(core_sources):
    assert upward_imports(core_sources) == []


def test_no_two_rooms_import_each_other(core_sources):
    assert mutual_imports(core_sources) == []


def test_every_room_has_a_layer(core_sources):
    assert rooms_without_a_layer(core_sources) == []


def test_plugins_import_only_the_plugin_api(plugin_sources):
    assert plugin_sources, "the device packages have no Python file"
    assert private_imports_of_plugins(plugin_sources) == []


def test_the_core_imports_no_device_package(core_sources):
    found = [
        f"{path}:{line} imports {module}"
        for path, text in core_sources.items()
        for line, module in imported_modules(path, text)
        if module.startswith("mix_device_")
    ]
    assert found == []


def test_checks_see_wrong_directions():
    bad = {
        "mix_core/ops/attention.py": "def f():\n    from mix_core.models.common import blocks\n",
        "mix_core/data/loader.py": "from ..training import loop\n",
        "mix_core/models/qwen2_5_vl/model.py": "from mix_core import errors, ops\n",
    }
    assert upward_imports(bad) == [
        "mix_core/data/loader.py:1 (data) imports training, which lies above it",
        "mix_core/ops/attention.py:2 (ops) imports models, which lies above it",
    ]
    both = {
        "mix_core/data/a.py": "from mix_core.models import registry\n",
        "mix_core/models/b.py": "import mix_core.data.images\n",
    }
    assert mutual_imports(both) == [
        "data and models import each other: mix_core/data/a.py:1, mix_core/models/b.py:1"
    ]
    assert rooms_without_a_layer({"mix_core/helpers/misc.py": ""}) == ["mix_core.helpers.misc"]
    plugin = "from mix_core.device import profile\nfrom mix_core import ops\nimport mix_core.plugin_api\n"
    assert [line.split(" imports ")[1] for line in private_imports_of_plugins({"p.py": plugin})] == [
        "mix_core.device; only mix_core.plugin_api is for plugins",
        "mix_core.ops; only mix_core.plugin_api is for plugins",
    ]
