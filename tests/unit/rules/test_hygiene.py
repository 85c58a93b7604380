"""Nothing unpickled, no error swallowed, no stub left behind, no test skipped without a reason."""

from __future__ import annotations

import ast
import re

UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
UNSAFE_CALLS = {
    "torch.load",
    "paddle.load",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "eval",
    "exec",
}
BETWEEN_OWN_PROCESSES = {
    "mix_core/data/shared_memory.py": "batches, over a socket, from workers that this process started",
}
BROAD = {"Exception", "BaseException"}
STUB = re.compile(r"\b(TODO|FIXME|XXX|HACK|NotImplementedError|NotImplemented\(\))\b")
SKIPS = {"pytest.skip", "pytest.mark.skip", "pytest.mark.xfail", "pytest.xfail"}


def dotted(node: ast.AST) -> str:
    return ast.unparse(node) if isinstance(node, (ast.Name, ast.Attribute)) else ""


def unsafe_readers(sources: dict[str, str]) -> list[str]:
    """Imports and calls that run code found in a file a user named."""
    found = []
    for path, text in sources.items():
        for node in ast.walk(ast.parse(text)):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name.split(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module.split(".")[0]]
            bad = sorted(set(names) & UNSAFE_MODULES)
            if isinstance(node, ast.Call):
                called = dotted(node.func)
                pickled = [k for k in node.keywords if k.arg == "allow_pickle" and not is_false(k.value)]
                checked = any(k.arg == "weights_only" and is_true(k.value) for k in node.keywords)
                unsafe = called in UNSAFE_CALLS and not (called == "torch.load" and checked)
                bad += [called] if unsafe or pickled else []
            found += [f"{path}:{node.lineno} uses {name}" for name in bad]
    return found


def is_false(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def is_true(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def says_nothing(body: list[ast.stmt]) -> bool:
    """The handler drops the error: pass, continue, ..., or a bare return."""

    def silent(statement: ast.stmt) -> bool:
        if isinstance(statement, ast.Return):
            return statement.value is None or isinstance(statement.value, ast.Constant)
        constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        return constant or isinstance(statement, (ast.Pass, ast.Continue))

    return all(silent(statement) for statement in body)


def swallowed_errors(sources: dict[str, str]) -> list[str]:
    found = []
    for path, text in sources.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ExceptHandler):
                kinds = (
                    node.type.elts if isinstance(node.type, ast.Tuple) else [node.type] if node.type else []
                )
                if not kinds:
                    found.append(f"{path}:{node.lineno} bare except")
                elif any(dotted(kind) in BROAD for kind in kinds) and says_nothing(node.body):
                    found.append(f"{path}:{node.lineno} broad except that says nothing")
            suppressing = isinstance(node, ast.Call) and dotted(node.func).endswith("suppress")
            if suppressing and any(dotted(argument) in BROAD for argument in node.args):
                found.append(f"{path}:{node.lineno} suppresses every error")
    return found


def stubs(sources: dict[str, str]) -> list[str]:
    return [
        f"{path}:{number} {match[0]}"
        for path, text in sources.items()
        for number, line in enumerate(text.splitlines(), 1)
        if (match := STUB.search(line))
    ]


def gives_reason(call: ast.Call) -> bool:
    return bool(call.args) or any(keyword.arg in {"reason", "msg"} for keyword in call.keywords)


def skips_without_reason(sources: dict[str, str]) -> list[str]:
    found = []
    for path, text in sources.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and dotted(node.func) in SKIPS and not gives_reason(node):
                found.append(f"{path}:{node.lineno} {dotted(node.func)} without a reason")
            for mark in getattr(node, "decorator_list", []):
                if dotted(mark) in SKIPS:
                    found.append(f"{path}:{mark.lineno} {dotted(mark)} without a reason")
    return found


def test_nothing_is_unpickled(shipped_sources):
    assert set(BETWEEN_OWN_PROCESSES) <= set(shipped_sources)
    files = {path: text for path, text in shipped_sources.items() if path not in BETWEEN_OWN_PROCESSES}
    assert unsafe_readers(files) == []


def test_no_error_is_swallowed(shipped_sources):
    assert swallowed_errors(shipped_sources) == []


def test_no_stub_is_left(shipped_sources, all_texts):
    own = {
        path: text
        for path, text in all_texts.items()
        if path.startswith(("csrc/", "benchmarks/", "scripts/"))
    }
    assert stubs(shipped_sources | own) == []


def test_every_skip_has_a_reason(python_sources):
    assert skips_without_reason({p: t for p, t in python_sources.items() if p.startswith("tests/")}) == []


def test_checks_see_unsafe_readers():
    loads = "np.load(p, allow_pickle=True)\nnp.load(p, allow_pickle=False)\n"
    loads += "torch.load(p)\ntorch.load(p, weights_only=True)\ntorch.load(p, weights_only=flag)\n"
    bad = f"import pickle\nx = paddle.load(p)\n{loads}eval(s)\n"
    assert [f.split(" uses ")[1] for f in unsafe_readers({"a.py": bad})] == [
        "pickle",
        "paddle.load",
        "np.load",
        "torch.load",
        "torch.load",
        "eval",
    ]


def test_checks_see_swallowed_errors():
    bad = """
try:
    f()
except:
    raise
try:
    f()
except Exception:
    return None
try:
    f()
except (ValueError, Exception):
    pass
try:
    f()
except OSError:
    pass
except Exception as error:
    report(error)
with contextlib.suppress(Exception):
    f()
"""
    text = "def g():\n" + "\n".join("    " + line for line in bad.splitlines()) + "\n"
    assert [int(f.split(":")[1].split()[0]) for f in swallowed_errors({"a.py": text})] == [5, 9, 13, 21]


def test_checks_see_stubs_and_bare_skips():
    assert stubs({"a.py": "x = 1\n# TO" + "DO later\nraise NotImplemented" + "Error\n"}) == [
        "a.py:2 TODO",
        "a.py:3 NotImplementedError",
    ]
    reasoned = "@pytest.mark.xfail(reason='why')\ndef test_b(): ...\n"
    bad = f"@pytest.mark.skip\ndef test_a():\n    pytest.skip()\n{reasoned}"
    assert len(skips_without_reason({"a.py": bad})) == 2
