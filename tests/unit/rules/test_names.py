"""The core names no vendor, and no file names a machine or a package registry's host."""

from __future__ import annotations

import ast
import re

VENDOR_WORDS = (
    "npu|xpu|gpu|tpu|dcu|mlu|gcu|cuda|cudnn|rocm|ascend|cann|acl|aclnn|hccl|huawei|kunlun|kunlunxin|baidu|bkcl|xccl"
    "|nvidia|nccl|iluvatar|cambricon|hygon"
)
# A word stands alone or between underscores: FLAGS_npu_x and is_npu are named, `input` is not.
VENDOR = re.compile(rf"(?<![A-Za-z])({VENDOR_WORDS})s?(?![A-Za-z])", re.IGNORECASE)
HELP_KEYWORDS = {"help", "epilog", "metavar"}
# Where help is written: option texts, and the docstrings under the keys of a run configuration.
HELP_FILES = ("mix_core/cli/", "mix_core/train.py", "mix_core/config_fields.py")

MACHINE = re.compile(
    r"(?<![\w$)/.:-])/(?:root|home/\w+|work|Users/\w+|opt/pypi)(?:/|\b)"
    r"|(?:pypi|pythonhosted|npmjs)\.(?:org|com)\b|files\.pythonhosted|download\.pytorch\.org|deb\.debian\.org",
)


def help_lines(tree: ast.AST) -> set[int]:
    """Lines of help texts and docstrings, where an example may name a device."""
    lines: set[int] = set()

    def add(node: ast.AST) -> None:
        lines.update(range(node.lineno, node.end_lineno + 1))

    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg in HELP_KEYWORDS:
            add(node.value)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            add(node)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "USAGE":
            add(node)
    return lines


def vendor_names(sources: dict[str, str]) -> list[str]:
    found = []
    for path, text in sources.items():
        excepted = help_lines(ast.parse(text)) if path.startswith(HELP_FILES) else set()
        for number, line in enumerate(text.splitlines(), 1):
            match = VENDOR.search(line)
            if match and number not in excepted:
                found.append(f"{path}:{number} names {match[0]!r}: ask the profile for a capability instead")
    return found


def machine_names(sources: dict[str, str]) -> list[str]:
    return [
        f"{path}:{number} names {match[0]!r}, which exists on one machine only"
        for path, text in sources.items()
        for number, line in enumerate(text.splitlines(), 1)
        if (match := MACHINE.search(line))
    ]


def test_no_vendor_name_in_the_core(core_sources, all_texts):
    settings = {
        p: t
        for p, t in all_texts.items()
        if p.startswith("mix_core/recipes/") and p.endswith((".yaml", ".yml"))
    }
    assert vendor_names(core_sources | settings) == []


def test_no_machine_and_no_registry_host_in_the_tree(all_texts):
    own = "tests/unit/rules/test_names.py"
    assert machine_names({path: text for path, text in all_texts.items() if path != own}) == []


def test_checks_see_vendor_names():
    source = 'flag = "FLAGS_npu_jit"\nis_cuda = True\noutput = inputs\n# Kunlun chips\ngpus = 2\n'
    lines = [int(found.split(":")[1].split()[0]) for found in vendor_names({"mix_core/ops/a.py": source})]
    assert lines == [1, 2, 4, 5]
    helped = 'app.option("--device", help="for example npu")\ndevice = "npu"\n'
    assert [found.split()[0] for found in vendor_names({"mix_core/cli/run.py": helped})] == [
        "mix_core/cli/run.py:2"
    ]
    assert len(vendor_names({"mix_core/ops/run.py": helped})) == 2


def test_checks_see_machine_names():
    hosts = 'd = "https://pypi.org/simple"\ne = "homework/a"\n'
    source = f'a = "/root/models"\nb = "/home/someone/x"\nc = "-v $(pwd):/work"\n{hosts}'
    assert [int(found.split(":")[1].split()[0]) for found in machine_names({"a.py": source})] == [1, 2, 4]
