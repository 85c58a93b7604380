"""`mix-core build`: libraries ahead of time; a compiler that fails is one line and the log's place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mix_core.device import native, simulate_build

COMMAND = ["-m", "mix_core.cli.main", "build"]
needs_compiler = pytest.mark.skipif(native.find_compiler()[0] is None, reason=native.find_compiler()[1])


@needs_compiler
def test_it_builds_the_operators_and_says_where(start):
    first = start([*COMMAND, "--json"], timeout_s=400.0)
    assert first.returncode == 0, first.stderr
    rows = json.loads(first.stdout)
    assert [row["name"] for row in rows] == ["libmix_kernels", "libmix_ops"]
    assert all(Path(row["path"]).is_file() and row["seconds"] >= 0 for row in rows)
    again = start(COMMAND).stdout.splitlines()
    assert again == [f"{row['name']}: already built, {row['path']}" for row in rows]


@needs_compiler
@pytest.mark.slow
def test_it_builds_the_simulated_device_where_asked(start):
    rows = json.loads(start([*COMMAND, "--simulator", "--json"], timeout_s=600.0).stdout)
    assert rows[-1]["name"] == "libmix_sim" and rows[-1]["path"] == str(simulate_build.place())


def test_a_compiler_that_fails_is_one_line_and_the_log(start, failing_compiler, tmp_path: Path):
    done = start(COMMAND, CXX=failing_compiler, MIX_CACHE=str(tmp_path / "cache"))
    assert (done.returncode, done.stdout) == (1, "")
    [log] = (tmp_path / "cache").rglob("*.log")
    assert done.stderr == (
        f"error: cannot build libmix_kernels: x.cc:1:1: error: out of patience (all of it in {log})\n"
    )
    assert "out of patience" in log.read_text(encoding="utf-8")


def test_without_a_compiler_it_says_what_to_install(start, tmp_path: Path):
    done = start(COMMAND, CXX="", PATH=str(tmp_path))
    assert done.returncode == 1 and "install g++ or set CXX" in done.stderr
    assert len(done.stderr.splitlines()) == 1
