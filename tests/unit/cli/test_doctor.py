"""`mix-core doctor`: exit code 0 only when the device works; broken plugins die in a child, not here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mix_core.device import doctor, native

COMMAND = ["-m", "mix_core.cli.main", "doctor"]


def report(done) -> dict[str, dict]:
    loaded = json.loads(done.stdout)
    assert set(loaded) == {"device", "usable", "checks", "operators"}
    assert done.returncode == (0 if loaded["usable"] else 1), done.stderr
    return {check["name"]: check for check in loaded["checks"]}


def test_the_cpu_is_usable_and_its_checks_ran_in_a_child(start):
    checks = report(start([*COMMAND, "cpu", "--json"]))
    assert {check["state"] for check in checks.values()} <= {"ok", "warning"}
    wanted = {"mix-core", "paddle", "compiler", "operators", "shared memory", "probe cpu", "activation"}
    wanted |= {"copy to the device and back", "product against float64", "gradient"}
    assert wanted <= set(checks)
    assert "relative error" in checks["product against float64"]["detail"]


def test_it_lists_what_runs_each_operator_and_why(start):
    done = start([*COMMAND, "cpu", "--json"], timeout_s=400.0)
    rows = {row["operator"]: row for row in json.loads(done.stdout)["operators"]}
    assert rows["sampling"]["runs"] == "reference" and "no kernel" in rows["sampling"]["reason"]
    assert {row["dtype"] for row in rows.values()} == {"float32"}
    if native.find_compiler()[0] is not None:
        assert rows["rms_norm"]["runs"] == "csrc rms_norm" and rows["rms_norm"]["reason"]
        assert "instruction set" in report(done)["C++ operators"]["detail"]


def test_a_compiler_that_fails_leaves_the_references_and_the_log(start, failing_compiler, tmp_path: Path):
    variables = {"CXX": failing_compiler, "MIX_CACHE": str(tmp_path / "cache")}
    done = start([*COMMAND, "cpu", "--json"], **variables)
    rows = {row["operator"]: row for row in json.loads(done.stdout)["operators"]}
    [log] = (tmp_path / "cache").rglob("*.log")
    why = f"cannot build libmix_kernels: x.cc:1:1: error: out of patience (all of it in {log})"
    assert (rows["rms_norm"]["runs"], rows["rms_norm"]["reason"]) == ("reference", why)
    assert done.returncode == 0 and why in report(done)["C++ operators"]["detail"]


def test_a_device_without_kernels_in_a_dtype_says_so(start, acme_cards):
    done = start([*COMMAND, "acme", "--json"], plugins=["acme"], ACME_DEV=acme_cards(1))
    rows = {(row["operator"], row["dtype"]): row for row in json.loads(done.stdout)["operators"]}
    assert rows["swiglu", "float32"]["runs"] == "acme swiglu"
    assert rows["rotary", "float32"]["reason"] == "the plugin of acme has no kernel for this"


def test_an_unknown_instruction_set_is_bad_input(start):
    checks = report(start([*COMMAND, "cpu", "--json"], MIX_CPU_ISA="sse2"))
    said = "MIX_CPU_ISA is 'sse2', expected portable, avx2, avx512, amx; unset it for the best"
    assert (checks["activation"]["state"], checks["activation"]["detail"]) == ("error", said)
    done = start(["-m", "mix_core.train", "--recipe", "digits", "--device", "cpu"], MIX_CPU_ISA="sse2")
    assert (done.returncode, done.stderr) == (2, f"error: {said}\n")


def test_without_a_name_it_examines_what_auto_would_take(start, acme_cards):
    done = start([*COMMAND, "--json"], plugins=["acme"], ACME_DEV=acme_cards(2))
    assert json.loads(done.stdout)["device"] == "acme"
    checks = report(done)
    assert checks["queues"] == {"name": "queues", "state": "ok", "detail": "4 queues"}
    assert checks["probe cpu"]["state"] == "ok"


def test_an_absent_device_is_an_error_only_when_it_is_named(start, acme_cards):
    cards = acme_cards(0)
    named = report(start([*COMMAND, "acme", "--json"], plugins=["acme"], ACME_DEV=cards))
    assert named["probe acme"]["state"] == "error" and "absent" in named["probe acme"]["detail"]
    auto = report(start([*COMMAND, "--json"], plugins=["acme"], ACME_DEV=cards))
    assert auto["probe acme"]["state"] == "ok" and auto["activation"]["state"] == "ok"


@pytest.mark.parametrize(
    ("folder", "name", "said"),
    [
        ("crasher", "crasher", "import of the plugin of crasher (crasher-device 0.1.0) died of SIGABRT"),
        ("rusty", "rusty", "ModuleNotFoundError"),
        ("impure", "impure", "mix_probe imports paddle"),
        ("next_major", "nextmajor", "plugin API 2.0"),
    ],
)
def test_a_broken_plugin_is_named_and_the_doctor_lives(start, folder: str, name: str, said: str):
    for arguments in ([name], []):
        checks = report(start([*COMMAND, *arguments, "--json"], plugins=[folder]))
        assert checks[f"probe {name}"]["state"] == "error"
        assert said in checks[f"probe {name}"]["detail"]


def test_a_failing_check_makes_the_device_unusable(start, acme_cards):
    done = start([*COMMAND, "acme"], plugins=["acme"], ACME_DEV=acme_cards(1), ACME_QUEUE="2")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert any(line.startswith("error") and "ACME_QUEUE is '2', expected '4'" in line for line in lines)
    assert lines[-1] == "acme is not usable"


def test_two_paddles_at_once_are_an_error(start, tmp_path: Path):
    other = tmp_path / "site" / "paddlepaddle_other-9.9.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: paddlepaddle-other\nVersion: 9.9\n")
    checks = report(start([*COMMAND, "cpu", "--json"], plugins=["acme"]))
    assert checks["paddle"]["state"] == "error"
    assert "paddlepaddle-other 9.9 and" in checks["paddle"]["detail"] or "and paddlepaddle-other 9.9" in str(
        checks
    )


def test_an_unknown_device_is_reported_not_raised(start):
    checks = report(start([*COMMAND, "cpp", "--json"]))
    assert "did you mean 'cpu'?" in checks["choice"]["detail"]


def test_little_shared_memory_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "SHARED_MEMORY_BYTES", 1 << 60)
    finding = doctor.shared_memory(tmp_path)
    assert finding.state == "warning" and "--shm-size" in finding.detail
    assert doctor.shared_memory(tmp_path / "none").state == "warning"
