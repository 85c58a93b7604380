"""Every decision says why: in the code where it is written, and in what each plugin here answers."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import textwrap

import pytest

# Class name to the position of its `reason` argument.
REASONED = {"Decision": 1, "AllocatorPolicy": 1, "Probe": 2}
WORDS = 2

ASK = """
    import importlib, itertools, json, sys
    from mix_core.device.discovery import new_manager
    from mix_core.plugin_api import Workload

    manager = new_manager()
    manager.register(importlib.import_module(sys.argv[1]))
    hook, reasons = manager.hook, {}
    kinds = itertools.product(("understanding", "generation"), ("train", "infer"), ("float32", "bfloat16"))
    for task, mode, dtype in kinds:
        for deterministic, simulate in itertools.product((False, True), repeat=2):
            workload = Workload(task, None, mode, dtype, 2, deterministic, simulate)
            for variables in hook.mix_environment(workload=workload):
                reasons |= {name: decision.reason for name, decision in variables.items()}
            if allocator := hook.mix_allocator(workload=workload):
                reasons |= {"allocator": allocator.reason}
                reasons |= {name: decision.reason for name, decision in allocator.knobs.items()}
            if stride := hook.mix_stride_kernel(workload=workload):
                reasons["stride kernel"] = stride.reason
            for operators in hook.mix_blacklisted_ops(workload=workload):
                reasons |= operators
    reasons["probe"] = hook.mix_probe().reason
    print(json.dumps({"reasons": reasons, "paddle": "paddle" in sys.modules}))
"""


def decisions_without_reason(sources: dict[str, str]) -> list[str]:
    """Calls that build a decision with a literal reason of fewer than WORDS words, or with none."""
    found = []
    for path, text in sources.items():
        for node in ast.walk(ast.parse(text)):
            name = ast.unparse(node.func).rpartition(".")[2] if isinstance(node, ast.Call) else ""
            if name not in REASONED or any(isinstance(argument, ast.Starred) for argument in node.args):
                continue
            given = [keyword.value for keyword in node.keywords if keyword.arg in ("reason", None)]
            given += node.args[REASONED[name] : REASONED[name] + 1]
            literal = given and isinstance(given[0], ast.Constant)
            if not given or (literal and len(str(given[0].value or "").split()) < WORDS):
                found.append(f"{path}:{node.lineno} {name} without a reason")
    return found


def plugin_modules(root) -> dict[str, str]:
    """Entry point module -> folder to import it from, for the built-in device and the packages beside it."""
    found = {"mix_core.device.cpu": str(root)}
    for project in sorted(root.glob("mix_device_*/pyproject.toml")):
        group = project.read_text().split('"mix_core.devices"]', 1)[1].split("[", 1)[0]
        module = re.search(r'=\s*"([\w.]+)', group)[1]
        found[module] = str(project.parent / "src")
    return found


def answers(module: str, folder: str, tmp_path) -> dict:
    program = f"import sys; sys.path.insert(0, {folder!r})\n{textwrap.dedent(ASK)}"
    done = subprocess.run(
        [sys.executable, "-c", program, module], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_decisions_in_the_code_have_reasons(shipped_sources):
    assert decisions_without_reason(shipped_sources) == []


def test_every_answer_of_a_plugin_has_a_reason_and_imports_no_paddle(root, tmp_path):
    modules = plugin_modules(root)
    assert len(modules) == 4, modules
    for module, folder in modules.items():
        answer = answers(module, folder, tmp_path)
        assert not answer["paddle"], f"a 'before' hook of {module} imports paddle"
        assert answer["reasons"], module
        short = {name: why for name, why in answer["reasons"].items() if len(why.split()) < WORDS}
        assert short == {}, module


@pytest.mark.parametrize(
    "call",
    ["Decision(1)", "Decision(1, '')", "Decision(True, reason='because')", "api.Probe('absent', None, 'no')"],
)
def test_check_sees_a_missing_reason(call):
    assert decisions_without_reason({"a.py": call}) == [
        f"a.py:1 {call.split('(')[0].split('.')[-1]} without a reason"
    ]
    assert (
        decisions_without_reason({"a.py": "Decision(1, 'two words')\nDecision(1, why)\nDecision(**row)"})
        == []
    )
