"""The four distributions: each wheel holds what its tree holds, and installs work anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
# Project folder -> (folder of the packages in the tree, packages). The core's C++ moves into the wheel.
PROJECTS = {
    ".": (".", "mix_core"),
    "mix_device_npu": ("mix_device_npu/src", "mix_device_npu"),
    "mix_device_xpu": ("mix_device_xpu/src", "mix_device_xpu"),
    "mix_device_gpu": ("mix_device_gpu/src", "mix_device_gpu"),
}
DEVICES = {"cpu", "npu", "xpu", "gpu"}


def run(*words: str | Path, cwd: Path = ROOT, timeout: int = 600) -> str:
    """Standard output of a command that must succeed, in an environment without this session's settings."""
    keep = {"PATH", "HOME", "LANG", "LC_ALL", "TMPDIR"}
    prefixes = ("PIP_", "SSL_", "REQUESTS_", "HTTP", "http", "no_proxy", "NO_PROXY", "UV_")
    environment = {name: v for name, v in os.environ.items() if name in keep or name.startswith(prefixes)}
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, f"{' '.join(map(str, words))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def tracked(folder: str) -> set[str]:
    """Files of the repository under `folder`, new ones included, ignored ones not."""
    listing = run("git", "ls-files", "--cached", "--others", "--exclude-standard", folder)
    return {line for line in listing.splitlines() if (ROOT / line).is_file()}


def expected_files(source: str, package: str) -> set[str]:
    folder = PurePosixPath(source) / package
    found = {str(PurePosixPath(path).relative_to(source)) for path in tracked(str(folder))}
    if package == "mix_core":
        found |= {f"mix_core/{path}" for path in tracked("csrc")}
    return found


def wheel_files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> dict[str, Path]:
    """Project folder -> its wheel, all built into one folder."""
    built = {}
    for project in PROJECTS:
        folder = tmp_path_factory.mktemp("wheel")
        run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, ROOT / project)
        (built[project],) = folder.glob("*.whl")
    return built


def fresh_environment(folder: Path, *requirements: str | Path) -> Path:
    """A new virtual environment with these installed; returns its bin folder. `devices` needs no Paddle."""
    run(sys.executable, "-m", "venv", folder)
    run(
        folder / "bin" / "python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        *requirements,
    )
    return folder / "bin"


@pytest.fixture(scope="module", params=["wheel", "editable"])
def installed(request, tmp_path_factory, wheels) -> Path:
    """bin folder of an environment with all four distributions."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "wheel":
        # Device packages require mix-core by name: --no-deps takes the one that was just installed.
        binaries = fresh_environment(folder, wheels["."])
        run(binaries / "python", "-m", "pip", "install", "--quiet", "--no-deps", *list(wheels.values())[1:])
        return binaries
    binaries = fresh_environment(folder, "--editable", ROOT)
    for project in list(PROJECTS)[1:]:
        run(binaries / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--editable", ROOT / project)
    return binaries


@pytest.mark.parametrize("project", PROJECTS)
def test_a_wheel_holds_what_its_tree_holds(project, wheels):
    source, package = PROJECTS[project]
    expected = expected_files(source, package)
    assert expected
    found = wheel_files(wheels[project])
    assert (sorted(expected - found), sorted(found - expected)) == ([], [])


def test_the_core_wheel_says_what_it_brings(wheels):
    with zipfile.ZipFile(wheels["."]) as archive:
        entry_points = archive.read(
            next(n for n in archive.namelist() if n.endswith("entry_points.txt"))
        ).decode()
        metadata = archive.read(next(n for n in archive.namelist() if n.endswith("METADATA"))).decode()
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())
    assert "cpu = mix_core.device.cpu" in entry_points
    assert "mix-core = mix_core.cli.main:main" in entry_points
    required = [
        line for line in metadata.splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line
    ]
    assert not [line for line in required if "paddle" in line.lower()], (
        "Paddle comes from an extra or a device package"
    )


@pytest.mark.parametrize("working_folder", ["/", str(ROOT)])
def test_devices_are_listed_from_anywhere(installed, working_folder):
    rows = json.loads(run(installed / "mix-core", "devices", "--json", cwd=Path(working_folder)))
    by_name = {row["name"]: row for row in rows}
    assert set(by_name) == DEVICES
    keys = {"name", "distribution", "version", "vendor", "state", "reason", "priority", "source", "api"}
    assert all(set(row) == keys and row["reason"] for row in rows)
    assert {by_name[name]["distribution"] for name in DEVICES - {"cpu"}} == {
        f"mix-device-{d}" for d in DEVICES - {"cpu"}
    }


@pytest.mark.parametrize("working_folder", ["/", str(ROOT)])
def test_packages_are_imported_from_their_own_place(installed, working_folder):
    program = (
        "import importlib, json, sys; names = sys.argv[1:]\n"
        "print(json.dumps({n: importlib.import_module(n).__file__ for n in names}))"
    )
    packages = [package for _, package in PROJECTS.values()]
    found = json.loads(run(installed / "python", "-c", program, *packages, cwd=Path(working_folder)))
    assert all(found[package] for package in packages), "an empty namespace package was imported"


def test_sources_and_sample_are_found(installed):
    program = (
        "from mix_core.device import native; from mix_core.data import digits; import pathlib\n"
        "folder = native.source_dir(); assert folder and list(folder.rglob('*.cc')), folder\n"
        "assert list(pathlib.Path(digits.__file__).parent.rglob('digits.npz'))\n"
        "print(folder)"
    )
    folder = run(installed / "python", "-c", program, cwd=Path("/")).strip()
    copies = list(installed.parent.glob("lib/python*/site-packages/mix_core/csrc"))
    if installed.parent.name.startswith("editable"):
        assert (folder, copies) == (str(ROOT / "csrc"), []), "a copy in an editable install grows stale"
    else:
        assert [folder] == list(map(str, copies))


def test_training_help_works_without_paddle(installed):
    assert "--recipe" in run(installed / "python", "-m", "mix_core.train", "--help", cwd=Path("/"))
