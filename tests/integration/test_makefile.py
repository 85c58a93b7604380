"""The Makefile's own decisions: which Python it takes, what `make train` does with a run that is there."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def script(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def make(folder: Path, *words: str) -> subprocess.CompletedProcess:
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    return subprocess.run(["make", *words], cwd=folder, capture_output=True, text=True, timeout=60)


def python_of_version(folder: Path, version: str) -> Path:
    """An interpreter that says it is another version."""
    program = f"import sys; sys.version_info = ({version.replace('.', ', ')}, 1); exec(sys.argv.pop(1))"
    return script(
        folder / f"python{version}", f"#!/bin/sh\nshift\nexec {sys.executable} -c '{program}' \"$@\"\n"
    )


@pytest.mark.parametrize("version", ["3.9", "3.14"])
def test_another_python_is_refused_in_one_line(tmp_path, version):
    done = make(tmp_path, "train", f"PYTHON={python_of_version(tmp_path, version)}")
    assert done.returncode == 2
    line = done.stderr.splitlines()[0]
    assert f"is Python {version}, and mix-core needs 3.10 to 3.13" in line
    assert "make train PYTHON=" in line
    assert not (tmp_path / ".venv").exists()


def test_a_missing_python_is_named(tmp_path):
    done = make(tmp_path, "test", "PYTHON=python-that-is-not-here")
    assert done.returncode == 2
    assert "no 'python-that-is-not-here' on this machine" in done.stderr


@pytest.fixture
def train(tmp_path):
    """Runs scripts/train_main_job with an interpreter that writes down what it was asked to run."""
    log = tmp_path / "asked.txt"
    python = script(
        tmp_path / "python",
        f'#!/bin/sh\nif [ "$1" = - ]; then exec {sys.executable} "$@"; fi\necho "$@" >> {log}\n'
        f"mkdir -p {tmp_path}/run && echo made > {tmp_path}/run/report.html\n",
    )

    def call(again: str = "") -> tuple[str, str]:
        environment = {
            "RUN": str(tmp_path / "run"),
            "AGAIN": again,
            "PY": str(python),
            "PATH": "/usr/bin:/bin",
        }
        done = subprocess.run(
            [ROOT / "scripts" / "train_main_job"], env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout, log.read_text() if log.exists() else ""

    return call


def finish(run: Path) -> None:
    run.mkdir(exist_ok=True)
    (run / "results.json").write_text(json.dumps({"digit_exact": 0.97, "box_iou": 0.5}))
    (run / "report.html").write_text("<html>")


def test_the_first_call_trains_and_an_interrupted_run_goes_on(train, tmp_path):
    said, asked = train()
    assert "--recipe digits" in asked and "--resume auto" in asked
    assert f"report: {tmp_path}/run/report.html" in said


def test_a_finished_run_is_shown_and_not_trained(train, tmp_path):
    finish(tmp_path / "run")
    said, asked = train()
    assert asked == ""
    assert "0.9700" in said and f"report: {tmp_path}/run/report.html" in said and "AGAIN=1" in said


def test_again_trains_a_finished_run_anew(train, tmp_path):
    finish(tmp_path / "run")
    _, asked = train(again="1")
    assert "--resume no --overwrite_output_dir true" in asked
