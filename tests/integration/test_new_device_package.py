"""A vendor with nothing but wheels: generate a device, build it, install it, and run the suite on it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.environment import ONE_THREAD
from tests.integration.test_packaging_wheels import ROOT, fresh_environment, run

pytestmark = pytest.mark.slow

KEPT = os.environ.get("MIX_CONFORMANCE_REPORTS")
NAME = "newchip"
LIMIT_S = 2400
"""On two cores, both busy: 400 s where the simulator and the CPU operators have to be built."""


@pytest.fixture(scope="module")
def vendor(tmp_path_factory) -> Path:
    """A folder with an environment `v` that has mix-core[cpu] and the generated device, from wheels."""
    folder = tmp_path_factory.mktemp("vendor")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder / "dist", ROOT)
    (core,) = (folder / "dist").glob("mix_core-*.whl")
    binaries = fresh_environment(folder / "v", f"{core}[cpu]")
    run(binaries / "mix-core", "new-device", NAME, cwd=folder)
    project = folder / f"mix_device_{NAME}"
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder / "dist", project)
    (device,) = (folder / "dist").glob(f"mix_device_{NAME}-*.whl")
    run(binaries / "python", "-m", "pip", "install", "--quiet", "--no-deps", device)
    shutil.rmtree(project)  # what runs is the wheel
    return folder


def test_the_wheel_registers_the_device(vendor: Path):
    rows = json.loads(run(vendor / "v" / "bin" / "mix-core", "devices", "--json", cwd=Path("/")))
    [row] = [row for row in rows if row["name"] == NAME]
    assert (row["distribution"], row["state"]) == (f"mix-device-{NAME}", "absent")


def test_the_wheel_passes_the_whole_suite_on_a_simulated_device(vendor: Path):
    empty = vendor / "empty"
    empty.mkdir()
    command = ["conformance", "--device", NAME, "--simulate", "--report", "report"]
    variables = [f"{name}={value}" for name, value in ONE_THREAD.items()]
    run("env", *variables, vendor / "v" / "bin" / "mix-core", *command, cwd=empty, timeout=LIMIT_S)
    report = json.loads((empty / "report" / "report.json").read_text())
    assert (report["complete"], report["level_reached"]) == (True, 6)
    assert report["exceptions"] == [], "nothing is excused"
    assert report["fallbacks"] == [], "without a table every kernel is the device's own"
    assert (empty / "report" / "badge.txt").is_file()
    if KEPT:
        shutil.copytree(empty / "report", Path(KEPT) / "generated", dirs_exist_ok=True)
