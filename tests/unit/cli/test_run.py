"""`mix-core run`: any program with a device's environment."""

from __future__ import annotations

import json
import sys

import pytest

COMMAND = ["-m", "mix_core.cli.main", "run"]
SHOW = "import json, os, sys; print(json.dumps({'argv': sys.argv, 'pid': os.getpid(), **os.environ}))"
PROGRAM = ["python3", "-c", SHOW]


def test_the_program_gets_process_and_import_settings_and_its_own_arguments(start):
    done = start([*COMMAND, "--device", "cpu", "--", *PROGRAM, "--device", "x", "--debug"])
    seen = json.loads(done.stdout)
    assert seen["argv"] == ["-c", "--device", "x", "--debug"]
    assert seen["MIX_DEVICE"] == "cpu"
    assert {"OMP_NUM_THREADS", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"} <= set(seen)


def test_the_exit_code_is_the_program_s(start):
    assert start([*COMMAND, "--device", "cpu", "--", "python3", "-c", "raise SystemExit(7)"]).returncode == 7


def test_runtime_settings_are_exported_for_paddle_to_read(start, acme_cards):
    done = start([*COMMAND, "--device", "acme", "--", *PROGRAM], plugins=["acme"], ACME_DEV=acme_cards(1))
    assert json.loads(done.stdout)["FLAGS_check_nan_inf"] == "1"


def test_a_mix_core_program_inside_finds_its_settings_in_place(start, acme_cards):
    code = "import mix_core.device as d; a = d.activate(); print(a.place, a.name, a.settings[0].source)"
    program = [sys.executable, "-c", code]
    done = start([*COMMAND, "--device", "acme", "--", *program], plugins=["acme"], ACME_DEV=acme_cards(1))
    assert done.stdout.split(maxsplit=2) == ["cpu", "acme", "plugin acme\n"], done.stderr


@pytest.mark.parametrize(("visible", "expected"), [(None, "1"), ("4,6", "6")])
def test_an_index_confines_the_program_to_one_visible_device(start, acme_cards, visible, expected):
    environ = {"ACME_DEV": acme_cards(8)} | ({"ACME_VISIBLE_DEVICES": visible} if visible else {})
    done = start([*COMMAND, "--device", "acme:1", "--", *PROGRAM], plugins=["acme"], **environ)
    seen = json.loads(done.stdout)
    assert (seen["ACME_VISIBLE_DEVICES"], seen["MIX_DEVICE"]) == (expected, "acme")


def test_the_device_comes_from_the_variable_when_no_argument_names_it(start, acme_cards):
    environ = {"ACME_DEV": acme_cards(1), "MIX_DEVICE": "acme"}
    assert (
        json.loads(start([*COMMAND, "--", *PROGRAM], plugins=["acme"], **environ).stdout)["ACME_HEAP"]
        == "big"
    )
    done = start([*COMMAND, "--device", "cpu", "--", *PROGRAM], plugins=["acme"], **environ)
    assert "ACME_HEAP" not in json.loads(done.stdout)


def test_refusals(start):
    for arguments, code, said in (
        (["--device", "cpu", "--", "no-such-program"], 2, "'no-such-program' is no program in PATH"),
        (["--device", "acme", "--", "true"], 1, "is absent"),
        (["--device", "cpu", "--simulate", "--", "true"], 2, "cpu (chosen by argument) cannot be simulated"),
    ):
        done = start([*COMMAND, *arguments], plugins=["acme"])
        assert done.returncode == code
        assert said in done.stderr and done.stderr.count("\n") == 1
