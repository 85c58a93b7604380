"""`mix-core doctor`: exit code 0 only when the device works; broken plugins die in a child, not here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mix_core.device import doctor

COMMAND = ["-m", "mix_core.cli.main", "doctor"]


def report(done) -> dict[str, dict]:
    loaded = json.loads(done.stdout)
    assert set(loaded) == {"device", "usable", "checks"}
    assert done.returncode == (0 if loaded["usable"] else 1), done.stderr
    return {check["name"]: check for check in loaded["checks"]}


def test_the_cpu_is_usable_and_its_checks_ran_in_a_child(start):
    checks = report(start([*COMMAND, "cpu", "--json"]))
    assert {check["state"] for check in checks.values()} <= {"ok", "warning"}
    wanted = {"mix-core", "paddle", "compiler", "operators", "shared memory", "probe cpu", "activation"}
    wanted |= {"copy to the device and back", "product against float64", "gradient"}
    assert wanted <= set(checks)
    assert "relative error" in checks["product against float64"]["detail"]


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
