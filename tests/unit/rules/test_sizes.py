"""Files stay short enough to read at one sitting, functions short enough to see at once."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator

FILE_LINES = 500
MEDIAN_LINES = 250
FUNCTION_LINES = 60


def long_files(sources: dict[str, str], limit: int) -> list[str]:
    counts = {path: len(text.splitlines()) for path, text in sources.items()}
    return [f"{path}: {count} lines, at most {limit}" for path, count in counts.items() if count > limit]


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def lines_without_docstring(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from `def` to the end; the docstring documents and is not counted."""
    count = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    ):
        count -= first.end_lineno - first.lineno + 1
    return count


def long_functions(sources: dict[str, str], limit: int) -> list[str]:
    found = []
    for path, text in sources.items():
        for function in functions(ast.parse(text)):
            count = lines_without_docstring(function)
            if count > limit:
                found.append(f"{path}:{function.lineno} {function.name}: {count} lines, at most {limit}")
    return found


def test_no_file_is_longer_than_the_limit(python_sources):
    assert long_files(python_sources, FILE_LINES) == []


def test_median_file_of_the_core_is_short(core_sources, record_property):
    lines = [
        len(text.splitlines()) for path, text in core_sources.items() if not path.endswith("__init__.py")
    ]
    record_property("median_lines", statistics.median(lines))
    assert statistics.median(lines) <= MEDIAN_LINES


def test_functions_are_short(shipped_sources):
    assert long_functions(shipped_sources, FUNCTION_LINES) == []


def test_checks_see_what_is_too_long():
    body = "\n".join(f"    x = {i}" for i in range(FUNCTION_LINES))
    sources = {"a.py": f"def f():\n{body}\n"}
    assert long_functions(sources, FUNCTION_LINES) == [
        f"a.py:1 f: {FUNCTION_LINES + 1} lines, at most {FUNCTION_LINES}"
    ]
    documented = {"a.py": 'def f():\n    """One\n\n    two."""\n' + body.split("\n", 1)[1] + "\n"}
    assert long_functions(documented, FUNCTION_LINES) == []
    assert long_files({"b.py": "\n" * 501}, 500) == ["b.py: 501 lines, at most 500"]
