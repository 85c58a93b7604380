"""The suite as a vendor runs it: the command, pytest, its files and exit codes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mix_core.device import native
from tests.conformance_meta.test_defects import conform, red
from tests.environment import ONE_THREAD, clean_environment, with_plugins

pytestmark = pytest.mark.skipif(native.find_compiler()[0] is None, reason=native.find_compiler()[1])
KEPT = os.environ.get("MIX_CONFORMANCE_REPORTS")
"""A folder that whole reports are kept in; `make test-all` sets it."""
COMMAND = [sys.executable, "-W", "ignore", "-m", "mix_core.cli.main"]


def run(folder: Path, *words: str, plugins=("mix_device_npu",), **variables: str):
    environ = with_plugins(clean_environment(), plugins, folder / "site")
    environ |= (ONE_THREAD if "--simulate" in words else {}) | variables
    return subprocess.run(
        [*COMMAND, *words], env=environ, cwd=folder, capture_output=True, text=True, timeout=900
    )


def test_levels_0_to_2_are_green_on_a_simulated_chip_in_time(tmp_path):
    done = run(tmp_path, "conformance", "--device", "npu", "--simulate", "--level", "2", "--report", "r")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    assert report["level_reached"] == 2
    assert report["counts"]["passed"] > 600
    assert report["seconds"] < 180
    assert not (tmp_path / "r" / "badge.txt").exists(), "three levels are a part of the suite"
    assert "s left" in done.stderr


def test_a_crash_and_a_hang_are_one_red_case_each(tmp_path):
    code, report, said = conform(tmp_path, "--case", "L1/own/*", defect="own_cases")
    assert code == 1, said
    found = {case["id"].rpartition("/")[2]: case for case in report["cases"]}
    assert {name for name, case in found.items() if case["status"] == "passed"} == {"green", "after"}
    assert "died (SIGABRT)" in found["abort"]["message"]
    assert "took too long" in found["hang"]["message"]
    assert found["wrong"]["message"] == "got 2, expected 3"
    assert "again: mix-core conformance --device faulty --simulate --case 'L1/own/wrong'" in said


def test_what_a_plugin_excuses_is_shown(tmp_path):
    code, report, said = conform(tmp_path, "--case", "L3/swiglu/plain/float32", defect="widened")
    assert (code, report["cases"][0]["widened"]) == (0, 3.0), said
    assert "widened L3/swiglu/plain/float32: 3 times the limit" in said
    code, report, said = conform(tmp_path, "--case", "L3/swiglu/plain/float32", defect="skipped")
    assert (code, report["cases"][0]["status"]) == (0, "skipped")
    assert "for a reason (1, until 9" in said


def test_a_failure_tells_all_that_is_needed(tmp_path):
    code, report, said = conform(tmp_path, "--case", "L3/swiglu/plain/float32", defect="swiglu_gradient")
    assert code == 1, said
    message = report["cases"][0]["message"]
    assert (
        "the gradient of gate is off by" in message and "worst at [" in message and "gate [5, 24]" in message
    )
    assert red(report) == ["L3/swiglu/plain/float32"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            ["--device", "nup", "--simulate"],
            "no installed plugin provides the device 'nup'; did you mean 'npu'?",
        ),
        (["--device", "npu", "--simulate", "--level", "7"], "level 7 does not exist"),
        (["--device", "npu", "--simulate", "--op", "rms"], "no case is about the operator 'rms'"),
        (["--device", "npu", "--level", "1", "--only-level", "1"], "give either --level or --only-level"),
        (["--device", "npu", "--simulate", "--against", "none.json"], "none.json does not exist"),
        ([], "name the one to test with --device"),
    ],
)
def test_bad_input_ends_with_2_and_one_line(tmp_path, words, text):
    done = run(tmp_path, "conformance", *words)
    assert done.returncode == 2
    assert text in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_pytest_runs_the_same_cases(tmp_path):
    environ = with_plugins(clean_environment(), ["mix_device_npu"], tmp_path / "site") | ONE_THREAD
    words = ["-q", "-p", "no:cacheprovider", "--pyargs", "mix_core.conformance", "--mix-device", "npu"]
    words += ["--mix-simulate", "--mix-level", "1", "-k", "contract or L0 or random"]
    if "mix_core.conformance.pytest_plugin" not in sys.modules:
        words = ["-p", "mix_core.conformance.pytest_plugin", *words]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words],
        env=environ,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "24 passed" in done.stdout, done.stdout


@pytest.mark.slow
def test_operators_json_is_what_the_models_call_now(tmp_path):
    """The file names the devices that it was made with."""
    program = "import json; from mix_core.conformance.collect import collect; print(json.dumps(collect(%r)))"
    devices = ["npu", "xpu", "gpu"]
    plugins = [f"mix_device_{name}" for name in devices]
    environ = with_plugins(clean_environment(), plugins, tmp_path / "site") | ONE_THREAD
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program % devices],
        env=environ,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    from mix_core.conformance.on_operators import table

    made = json.loads(done.stdout.splitlines()[-1])
    assert made == table(), "make it anew: python -m mix_core.conformance.collect npu xpu gpu"


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [["cpu"], ["npu", "--simulate"], ["xpu", "--simulate"], ["gpu", "--simulate"]]
)
def test_the_whole_suite_is_green_in_time(tmp_path, words):
    plugins = ["mix_device_npu", "mix_device_xpu", "mix_device_gpu"]
    done = run(tmp_path, "conformance", "--device", *words, "--report", "r", plugins=plugins)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    level = 5 if words == ["cpu"] else 6  # the host has no ranks yet: all of level 6 is skipped
    assert (report["level_reached"], report["complete"]) == (level, True)
    assert report["seconds"] < 600
    assert (tmp_path / "r" / "badge.txt").read_text().startswith(f"conformant L{level}")
    if KEPT:
        shutil.copytree(tmp_path / "r", Path(KEPT) / words[0], dirs_exist_ok=True)
