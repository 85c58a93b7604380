"""`mix-core explain`: final settings as they would be exported, with reasons and sources."""

from __future__ import annotations

import json

COMMAND = ["-m", "mix_core.cli.main", "explain"]
KEYS = ["name", "value", "reason", "source", "kind", "stage"]


def rows(done) -> dict[str, dict]:
    assert done.returncode == 0, done.stderr
    listed = json.loads(done.stdout)
    assert all(list(row) == KEYS for row in listed)
    return {row["name"]: row for row in listed}


def test_an_absent_device_can_be_explained(start):
    done = start([*COMMAND, "acme", "--json"], plugins=["acme"])
    found = rows(done)
    assert found["FLAGS_use_stride_kernel"]["value"] == "0"
    assert found["CUSTOM_DEVICE_BLACK_LIST"]["value"] == "set_value,cumsum"
    assert found["FLAGS_check_nan_inf"]["stage"] == "runtime"
    assert "device acme is absent here" in done.stderr


def test_the_user_s_variables_are_shown_with_both_sources(start):
    environ = {"ACME_QUEUE": "1", "CUSTOM_DEVICE_BLACK_LIST": "matmul_v2"}
    found = rows(start([*COMMAND, "acme", "--json"], plugins=["acme"], **environ))
    assert found["ACME_QUEUE"]["value"] == "1"
    assert found["ACME_QUEUE"]["source"] == "user (over plugin acme)"
    assert "would have 4: four queues" in found["ACME_QUEUE"]["reason"]
    assert found["CUSTOM_DEVICE_BLACK_LIST"]["value"] == "matmul_v2,set_value,cumsum"
    assert found["CUSTOM_DEVICE_BLACK_LIST"]["source"] == "user, plugin acme"


def test_the_workload_and_the_simulation_change_the_rows(start):
    plain = rows(start([*COMMAND, "acme", "--json"], plugins=["acme"]))
    generation = rows(start([*COMMAND, "acme", "--workload", "generation", "--json"], plugins=["acme"]))
    assert set(generation) - set(plain) == {"ACME_TILES"}
    simulated = rows(start([*COMMAND, "acme", "--simulate", "--json"], plugins=["acme"]))
    assert simulated["OMP_NUM_THREADS"]["source"] == "plugin cpu" and "OMP_NUM_THREADS" not in plain


def test_what_explain_shows_is_what_run_exports(start, acme_cards):
    cards = {"ACME_DEV": acme_cards(1), "ACME_TOOLS": "/mine"}
    shown = rows(start([*COMMAND, "acme", "--json"], plugins=["acme"], **cards))
    code = "import os, json; print(json.dumps(dict(os.environ)))"
    run = ["-m", "mix_core.cli.main", "run", "--device", "acme", "--", "python3", "-c", code]
    environ = json.loads(start(run, plugins=["acme"], **cards).stdout)
    exported = {name: row["value"] for name, row in shown.items() if row["stage"] != "runtime"}
    assert exported == {name: environ[name] for name in exported}


def test_bad_names_end_with_their_exit_codes(start):
    for arguments, code, said in (
        (["npu:x"], 2, "NAME or NAME:INDEX"),
        (["cpp"], 1, "did you mean 'cpu'?"),
        (["cpu", "--workload", "translation"], 2, "neither understanding nor generation"),
    ):
        done = start([*COMMAND, *arguments])
        assert done.returncode == code
        assert done.stderr.startswith("error: ") and said in done.stderr and done.stderr.count("\n") == 1


def test_the_table_for_people_has_a_line_for_each_setting(start):
    lines = start([*COMMAND, "cpu"]).stdout.splitlines()
    assert lines[0].split() == ["name", "value", "stage", "kind", "source", "reason"]
    assert any(line.startswith("OMP_NUM_THREADS ") and " import " in line for line in lines[1:])
