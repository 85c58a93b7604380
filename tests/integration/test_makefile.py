"""The Makefile's own decisions: which Python it takes, what `make train` does with a run that is there."""

from __future__ import annotations

import importlib.util
import os
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
        if not (folder / name).exists():
            shutil.copy(ROOT / name, folder)
    # not what the make that runs these tests was called with
    environ = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        ["make", *words], cwd=folder, env=environ, capture_output=True, text=True, timeout=60
    )


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
def installed(tmp_path):
    """A folder with everything installed, and an interpreter that writes down what it is to run."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    script(tmp_path / ".venv" / "bin" / "python", '#!/bin/sh\necho "$@" >> asked.txt\n')
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    for stamp in (".installed", ".installed-tests"):
        (tmp_path / ".venv" / stamp).touch()
    return tmp_path


def asked(folder: Path) -> list[str]:
    path = folder / "asked.txt"
    return path.read_text().splitlines() if path.exists() else []


def test_train_goes_on_with_what_is_there(installed):
    done = make(installed, "train", "RUN=runs/mine")
    assert done.returncode == 0, done.stderr
    assert asked(installed) == ["-m mix_core.train --recipe digits --output_dir runs/mine --resume auto"]


def test_again_starts_anew(installed):
    make(installed, "train", "AGAIN=1")
    assert asked(installed) == [
        "-m mix_core.train --recipe digits --output_dir runs/digits --overwrite_output_dir true"
    ]


def test_a_changed_pyproject_installs_again_and_torch_first(installed):
    assert make(installed, "install-tests").returncode == 0
    assert asked(installed) == []
    later = (installed / ".venv" / ".installed").stat().st_mtime + 10
    os.utime(installed / "pyproject.toml", (later, later))
    assert make(installed, "install-tests", "TORCH_INDEX=https://wheels.example/cpu").returncode == 0
    installs = [line.split(" install ")[1] for line in asked(installed)]
    assert installs == [
        "--quiet --editable .[cpu]",
        "--quiet --index-url https://wheels.example/cpu torch==2.13.0",
        "--quiet transformers==5.3.0 diffusers==0.42.1 --editable .[cpu,video,test,lint]",
    ]


def test_a_failed_install_is_tried_again(installed):
    (installed / ".venv" / ".installed").unlink()
    script(installed / ".venv" / "bin" / "python", "#!/bin/sh\nexit 1\n")
    assert make(installed, "train").returncode == 2
    assert not (installed / ".venv" / ".installed").exists()


def test_clients_get_an_environment_of_their_own(installed):
    shutil.copytree(installed / ".venv", installed / ".venv-clients")
    (installed / "mix_device_npu").mkdir()
    (installed / "mix_device_npu" / "pyproject.toml").touch()
    done = make(installed, "test-clients")
    assert done.returncode == 0, done.stderr
    assert asked(installed)[-2:] == [
        "-m pip --disable-pip-version-check install --quiet --editable .[cpu,paddlenlp] "
        "--editable ./mix_device_npu",
        "scripts/check_clients.py",
    ]


def loaded(script_name: str):
    spec = importlib.util.spec_from_file_location(script_name, ROOT / "scripts" / f"{script_name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({}, []),
        ({"losses": [4.0, 3.9]}, ["the loss did not fall below 0.5 of its first value: [4.0, 3.9]"]),
        ({"losses": []}, ["the loss did not fall below 0.5 of its first value: []"]),
        ({"losses": [4.0, float("nan")]}, ["the loss did not fall below 0.5 of its first value: [4.0, nan]"]),
        (
            {"places": ["Place(cpu)", "Place(npu:0)"]},
            ["parameters lie on ['Place(cpu)', 'Place(npu:0)'], expected ['Place(npu:0)']"],
        ),
        ({"dtypes": ["paddle.float16"]}, ["parameters are ['paddle.float16'], expected float32"]),
    ],
)
def test_a_client_that_did_not_train_on_its_device_is_told(change, complaint):
    found = {"losses": [4.0, 1.0], "places": ["Place(npu:0)"], "dtypes": ["paddle.float32"]} | change
    assert loaded("check_clients").complaints("npu", "float32", found) == complaint


@pytest.mark.parametrize("fails", [None, 0, 1], ids=["none", "first", "second"])
@pytest.mark.parametrize(
    ("target", "alone", "others"),
    [
        ("test-all", "-m alone ", "-m not alone"),
        ("test", "-m alone and not slow ", "-m not slow and not alone"),
    ],
)
def test_what_is_alone_goes_first(installed, target, alone, others, fails):
    python = '#!/bin/sh\necho "$@" >> asked.txt\nls -d "$MIX_FULL_RUN" >> runs.txt\n'
    python += 'case "$*" in *"%s"*) exit 1; esac\n'
    bad = "nothing" if fails is None else (alone, others)[fails]
    script(installed / ".venv" / "bin" / "python", python % bad)
    assert make(installed, target).returncode == (0 if fails is None else 2)
    first, second = asked(installed)
    assert first.startswith(f"-m pytest {alone}") and first.endswith(" tests/unit/data/test_packing.py")
    assert second.startswith("-m pytest --numprocesses 2 ") and others in second
    if target == "test":
        return
    (run,) = set((installed / "runs.txt").read_text().splitlines())
    assert not Path(run).exists(), "both had one folder for the run at full length, and nobody has it after"


def test_the_four_quarters_hold_every_slow_test_once():
    script = loaded("slow_quarter")
    files = script.slow_files()
    assert "tests/integration/test_packaging_wheels.py" in files
    dealt = [path for quarter in range(4) for path in script.quarter_of(files, quarter)]
    assert sorted(dealt) == files
