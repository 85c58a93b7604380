"""A new user with nothing but the wheels: install them, train on a simulated NPU in an empty folder."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest

from tests.integration.test_packaging_wheels import ROOT, fresh_environment, run

pytestmark = pytest.mark.slow

STEPS = 5
LIMIT_S = 900
"""On two cores: 170 s, of which 10 s for the wheels, 25 s to install and 100 s to build the simulator."""


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


def test_wheels_train_on_a_simulated_npu_in_an_empty_folder(user):
    empty, cache = user / "empty", user / "cache"
    empty.mkdir()
    arguments = f"-m mix_core.train --recipe digits --device npu --simulate --max_steps {STEPS}".split()
    run("env", f"MIX_CACHE={cache}", user / "v" / "bin" / "python", *arguments, cwd=empty, timeout=LIMIT_S)

    steps = [json.loads(line) for line in (empty / "runs/digits/metrics.jsonl").read_text().splitlines()]
    losses = [step["loss"] for step in steps if "loss" in step]
    assert len(losses) == STEPS and all(map(math.isfinite, losses)), steps
    device = json.loads((empty / "runs/digits/run.json").read_text())["device"]
    assert (device["name"], device["place"], device["simulated"]) == ("npu", "npu:0", True)

    (library,) = cache.glob("native/sim-*/*/*.so")
    (root,) = [row["value"] for row in device["settings"] if row["name"] == "CUSTOM_DEVICE_ROOT"]
    assert Path(root) == library.parent, "Paddle loaded the simulator that was built in this cache"
    assert str(ROOT) not in (empty / "runs/digits/run.json").read_text(), "nothing comes from the checkout"
