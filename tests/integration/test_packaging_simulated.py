"""Nothing but wheels: a user trains on a simulated NPU, a vendor generates a device that passes the suite."""

from __future__ import annotations

import json
import math
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
STEPS = 5
LIMIT_S = 2400
"""On two cores, both busy: 170 s for the first test (100 s to build the simulator), 200 s for the suite."""


@pytest.fixture(scope="module")
def user(tmp_path_factory) -> Path:
    """A folder with an environment `v` that has mix-core[cpu] and mix-device-npu, from wheels."""
    folder = tmp_path_factory.mktemp("user")
    for project in (ROOT, ROOT / "mix_device_npu"):
        run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder / "dist", project)
    (core,) = (folder / "dist").glob("mix_core-*.whl")
    (npu,) = (folder / "dist").glob("mix_device_npu-*.whl")
    fresh_environment(folder / "v", f"{core}[cpu]", npu)
    return folder


def program(user: Path, *words: str, cwd: Path) -> None:
    """A command in the user's environment, whose libraries go into the user's own cache."""
    variables = [f"{name}={value}" for name, value in ONE_THREAD.items()]
    binaries = user / "v" / "bin"
    run(
        "env",
        f"MIX_CACHE={user / 'cache'}",
        *variables,
        binaries / words[0],
        *words[1:],
        cwd=cwd,
        timeout=LIMIT_S,
    )


def test_wheels_train_on_a_simulated_npu_in_an_empty_folder(user: Path):
    empty, cache = user / "empty", user / "cache"
    empty.mkdir()
    words = f"-m mix_core.train --recipe digits --device npu --simulate --max_steps {STEPS}".split()
    program(user, "python", *words, cwd=empty)

    steps = [json.loads(line) for line in (empty / "runs/digits/metrics.jsonl").read_text().splitlines()]
    losses = [step["loss"] for step in steps if "loss" in step]
    assert len(losses) == STEPS and all(map(math.isfinite, losses)), steps
    device = json.loads((empty / "runs/digits/run.json").read_text())["device"]
    assert (device["name"], device["place"], device["simulated"]) == ("npu", "npu:0", True)

    (library,) = cache.glob("native/sim-*/*/*.so")
    (root,) = [row["value"] for row in device["settings"] if row["name"] == "CUSTOM_DEVICE_ROOT"]
    assert Path(root) == library.parent, "Paddle loaded the simulator that was built in this cache"
    assert str(ROOT) not in (empty / "runs/digits/run.json").read_text(), "nothing comes from the checkout"


@pytest.fixture(scope="module")
def vendor(user: Path) -> Path:
    """The user's folder, whose environment has a generated device too, from its wheel."""
    binaries, project = user / "v" / "bin", user / f"mix_device_{NAME}"
    run(binaries / "mix-core", "new-device", NAME, cwd=user)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", user / "dist", project)
    (device,) = (user / "dist").glob(f"mix_device_{NAME}-*.whl")
    run(binaries / "python", "-m", "pip", "install", "--quiet", "--no-deps", device)
    shutil.rmtree(project)  # what runs is the wheel
    return user


def test_the_wheel_registers_the_device(vendor: Path):
    rows = json.loads(run(vendor / "v" / "bin" / "mix-core", "devices", "--json", cwd=Path("/")))
    [row] = [row for row in rows if row["name"] == NAME]
    assert (row["distribution"], row["state"]) == (f"mix-device-{NAME}", "absent")


def test_the_wheel_passes_the_whole_suite_on_a_simulated_device(vendor: Path):
    (folder := vendor / "suite").mkdir()
    program(
        vendor, "mix-core", "conformance", "--device", NAME, "--simulate", "--report", "report", cwd=folder
    )
    report = json.loads((folder / "report" / "report.json").read_text())
    assert (report["complete"], report["level_reached"]) == (True, 6)
    assert report["exceptions"] == [], "nothing is excused"
    assert report["fallbacks"] == [], "without a table every kernel is the device's own"
    assert (folder / "report" / "badge.txt").is_file()
    if KEPT:
        shutil.copytree(folder / "report", Path(KEPT) / "generated", dirs_exist_ok=True)
