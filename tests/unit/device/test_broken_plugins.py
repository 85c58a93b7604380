"""Every broken plugin of tests/plugins, and the sentence that its user reads (the table of its README)."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
PAGE = (PLUGINS / "README.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| ([\w, ]+) \| (.+?) \| `(.+?)` \| `(.+)` \|$", re.MULTILINE)
BROKEN = ROW.findall(PAGE)
WORKING_ON = ("next_minor", "sleepy")
"""They warn, and are used."""


@pytest.mark.parametrize(("installed", "wrong", "command", "sentence"), BROKEN)
def test_the_user_reads_the_sentence(start, installed: str, wrong: str, command: str, sentence: str):
    done = start(["-m", "mix_core.cli.main", *shlex.split(command)], plugins=installed.split(", "))
    pattern = ".*".join(re.escape(part) for part in sentence.split("..."))
    said = done.stdout + done.stderr
    assert [line for line in said.splitlines() if re.search(pattern, line)], said
    assert "Traceback" not in said
    assert done.returncode == (0 if command == "devices" or _warns(installed, command) else 1), said


def _warns(installed: str, command: str) -> bool:
    return installed in WORKING_ON and command.startswith("doctor")


def test_the_table_names_every_folder_and_every_kind_of_breakage():
    folders = {path.parent.name for path in PLUGINS.glob("*/pyproject.toml")}
    named = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
    broken = {name for row in BROKEN for name in row[0].split(", ")} - {"acme"}
    assert named | broken == folders and not named & broken
    kinds = " ".join(row[1] for row in BROKEN)
    for kind in ("raises at import", "wrong API major", "newer API minor", "unknown hook", "slow"):
        assert kind in kinds
    assert "two distributions" in kinds and "native library" in kinds


def test_one_broken_plugin_harms_no_other(start):
    names = sorted({name for row in BROKEN for name in row[0].split(", ")} - {"crasher", "acme_twin"})
    done = start(["-m", "mix_core.cli.main", "devices"], plugins=names)
    states = dict(line.split()[:2] for line in done.stdout.splitlines()[1:])
    assert (done.returncode, states["acme"], states["cpu"]) == (0, "absent", "usable"), done.stderr
