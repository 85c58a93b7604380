"""Nothing is monkey-patched: neither by the text of the code nor, seen from a running process, in fact."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import textwrap

MODULE_TABLES = {"modules", "__dict__"}


def imported_names(tree: ast.AST) -> set[str]:
    """Names bound by an import anywhere in the file, and plain aliases of what hangs on them."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.asname or alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.update(alias.asname or alias.name for alias in node.names)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Attribute)
            and root_name(node.value) in names
        ):
            names.update(
                target.id
                for target in node.targets
                if isinstance(target, ast.Name) and target.id[0].isupper()
            )
    return names


def root_name(node: ast.AST) -> str | None:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def local_names(function: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> set[str]:
    args = function.args
    return {
        arg.arg for arg in (*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg) if arg
    }


def patched_target(target: ast.AST, names: set[str]) -> str | None:
    """What an assignment to `target` would change in another module, if anything."""
    if isinstance(target, (ast.Tuple, ast.List)):
        return next((found for item in target.elts if (found := patched_target(item, names))), None)
    if isinstance(target, ast.Attribute) and root_name(target) in names:
        return ast.unparse(target)
    if isinstance(target, ast.Subscript) and isinstance(target.value, ast.Attribute):
        table = target.value
        if table.attr in MODULE_TABLES and root_name(table) in names:
            return ast.unparse(target)
    return None


class PatchFinder(ast.NodeVisitor):
    def __init__(self, path: str, tree: ast.AST) -> None:
        self.path, self.names, self.found = path, imported_names(tree), []

    def report(self, node: ast.AST, what: str) -> None:
        self.found.append(f"{self.path}:{node.lineno} changes {what}, which it imported")

    def within_function(self, node) -> None:
        outer, self.names = self.names, self.names - local_names(node)
        self.generic_visit(node)
        self.names = outer

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = within_function

    def visit_targets(self, node) -> None:
        for target in getattr(node, "targets", None) or [node.target]:
            if what := patched_target(target, self.names):
                self.report(node, what)
        self.generic_visit(node)

    visit_Assign = visit_AugAssign = visit_AnnAssign = visit_Delete = visit_targets

    def visit_Call(self, node: ast.Call) -> None:
        called = node.func.id if isinstance(node.func, ast.Name) else ""
        if called in {"setattr", "delattr"} and node.args and root_name(node.args[0]) in self.names:
            self.report(node, ast.unparse(node.args[0]))
        self.generic_visit(node)


def patches(sources: dict[str, str]) -> list[str]:
    found = []
    for path, text in sources.items():
        tree = ast.parse(text)
        finder = PatchFinder(path, tree)
        finder.visit(tree)
        found += finder.found
    return found


# Functions and classes of other packages, before and after everything of ours was imported on the CPU device.
WATCHED = """
    import importlib, inspect, json, pkgutil, sys, types
    import os, threading, multiprocessing, numpy, PIL.Image, safetensors, tokenizers
    import mix_core, mix_core.device
    mix_core.device.activate("cpu")
    import paddle

    def snapshot():
        seen = {}
        for name, module in list(sys.modules.items()):
            if module is None or name.startswith("mix_core") or not isinstance(module, types.ModuleType):
                continue
            for key, value in list(vars(module).items()):
                if inspect.isroutine(value) or inspect.isclass(value):
                    seen[f"{name}.{key}"] = value
                if inspect.isclass(value) and getattr(value, "__module__", None) == name:
                    for attribute, member in list(vars(value).items()):
                        if inspect.isroutine(member) or isinstance(member, (property, classmethod)):
                            seen[f"{name}.{key}.{attribute}"] = member
        return seen

    before = snapshot()
    for info in pkgutil.walk_packages(mix_core.__path__, "mix_core."):
        if not info.name.endswith("__main__"):
            importlib.import_module(info.name)
    after = snapshot()
    print(json.dumps(sorted(k for k, v in before.items() if k in after and after[k] is not v)))
"""


def test_no_file_assigns_into_what_it_imported(shipped_sources):
    assert patches(shipped_sources) == []


def test_importing_everything_replaces_nothing_in_other_packages(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(WATCHED)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_checks_see_patches():
    bad = """
import sys
import paddle
from paddle import nn
Linear = nn.Linear
paddle.Tensor.max = None
nn.Layer.to: object = None
setattr(paddle.nn.functional, "sdpa", None)
sys.modules["x"] = None
Linear.forward = None
del paddle.matmul
def fine(nn, own):
    nn.weight = own.bias = 1
    self = own
    self.paddle = paddle
"""
    assert [int(found.split(":")[1].split()[0]) for found in patches({"a.py": bad})] == [6, 7, 8, 9, 10, 11]
