"""README.md and README.zh.md say the same, and what they tell the reader to type exists."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README.zh.md"
BIN = Path(sys.executable).parent
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^(#+) ", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
INLINE = re.compile(r"`((?:mix-core|make|python -m) [^`]+)`")


def without_code(text: str) -> str:
    return FENCE.sub("", text)


def heading_levels(text: str) -> list[int]:
    return [len(marks) for marks in HEADING.findall(without_code(text))]


def code_blocks(text: str) -> list[tuple[str, list[str]]]:
    """(language, lines) of each block; comments may differ between languages and are left out."""
    blocks = []
    for language, body in FENCE.findall(text):
        lines = [re.sub(r"\s*(^|\s)#.*", "", line).rstrip() for line in body.splitlines()]
        blocks.append((language, [line for line in lines if line]))
    return blocks


def table_shapes(text: str) -> list[int]:
    """Number of columns of every table row, in order."""
    return [line.count("|") - 1 for line in without_code(text).splitlines() if line.startswith("|")]


def commands(text: str) -> list[str]:
    """What the reader is told to type: lines of bash blocks, and inline code that starts with a command."""
    typed = [line for language, lines in code_blocks(text) if language == "bash" for line in lines]
    return typed + INLINE.findall(without_code(text))


def run(*words: str, cwd: Path = ROOT, timeout: int = 120) -> subprocess.CompletedProcess:
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout)


@pytest.fixture(scope="module")
def texts() -> tuple[str, str]:
    return ENGLISH.read_text(encoding="utf-8"), CHINESE.read_text(encoding="utf-8")


def test_headings_agree(texts):
    english, chinese = map(heading_levels, texts)
    assert english == chinese
    assert english.count(1) == 1


def test_code_blocks_agree(texts):
    english, chinese = map(code_blocks, texts)
    assert english == chinese


def test_tables_links_and_images_agree(texts):
    english, chinese = texts
    assert table_shapes(english) == table_shapes(chinese)
    other = {"README.md", "README.zh.md"}
    assert [x for x in LINK.findall(english) if x not in other] == [
        x for x in LINK.findall(chinese) if x not in other
    ]


@pytest.mark.parametrize(
    "page", sorted(str(p.relative_to(ROOT)) for p in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
)
def test_links_lead_somewhere(page):
    path = ROOT / page
    targets = [link for link in LINK.findall(path.read_text(encoding="utf-8")) if "://" not in link]
    assert [link for link in targets if not (path.parent / link).exists()] == []


def test_make_targets_exist(texts):
    wanted = {
        word
        for text in texts
        for line in commands(text)
        if line.startswith("make ")
        for word in line.split()[1:2]
    }
    assert {"train", "test", "lint", "test-all"} <= wanted
    for target in sorted(wanted):
        done = run("make", "--dry-run", target)
        assert done.returncode == 0, f"make {target}: {done.stderr}"


def test_mix_core_commands_and_options_exist(texts):
    helps: dict[tuple[str, ...], str] = {}
    for text in texts:
        for line in commands(text):
            words = shlex.split(line)
            if words[:1] != ["mix-core"] or words[1].startswith("-"):
                continue
            own = words[: words.index("--")] if "--" in words else words
            command = tuple(own[:3]) if own[1] == "data" else tuple(own[:2])
            if command not in helps:
                done = run(*command, "--help")
                assert done.returncode == 0, f"{' '.join(command)} --help: {done.stderr}"
                helps[command] = done.stdout
            options = [word for word in own if word.startswith("--")]
            assert [option for option in options if option not in helps[command]] == [], line
    mentioned = {command[1] for command in helps}
    assert {"devices", "explain", "doctor", "data", "train", "infer", "conformance", "plan"} <= mentioned


def test_python_modules_take_the_arguments_shown(texts):
    lines = {line for text in texts for line in commands(text) if line.startswith("python -m mix_core")}
    assert lines
    done = run("python", "-m", "mix_core.train", "--help")
    assert done.returncode == 0, done.stderr
    for line in lines:
        words = shlex.split(line)
        assert words[2] == "mix_core.train", line
        assert [word for word in words if word.startswith("--") and word not in done.stdout] == [], line


@pytest.mark.slow
@pytest.mark.parametrize(
    "start",
    [
        "mix-core devices",
        "mix-core explain cpu",
        "mix-core doctor cpu",
        "mix-core data digits",
        "mix-core run --device cpu",
    ],
)
def test_commands_of_the_readme_run(texts, start, tmp_path):
    line = next(line for line in commands(texts[0]) if line.startswith(start))
    words = [str(ROOT / word) if word.startswith("benchmarks/") else word for word in shlex.split(line)]
    done = run(*words, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()


def test_checks_see_a_difference():
    one = "# A\n## B\n```bash\nmake train  # now\n# comment\n```\n| a | b |\n"
    two = "# 甲\n### 乙\n```bash\nmake test  # 现在\n```\n| 甲 |\n"
    assert heading_levels(one) == [1, 2] and heading_levels(two) == [1, 3]
    assert code_blocks(one) == [("bash", ["make train"])] and code_blocks(two) == [("bash", ["make test"])]
    assert (table_shapes(one), table_shapes(two)) == ([2], [1])
