"""What doctor reads of a machine with Ascend cards: the driver's tool, versions in files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from mix_device_npu.checks import Card
from mix_device_npu.kernels import AscendKernels
from mix_device_npu.runtime import AscendRuntime

from mix_core.plugin_api import DeviceError, PaddleRuntime
from mix_device_npu import checks, toolchain

# Written by hand in the public format of `npu-smi info` (driver 23.0.3, 910B); not recorded on a machine.
TWO_CARDS = """\
+------------------------------------------------------------------------------------------------+
| npu-smi 23.0.3                   Version: 23.0.3                                               |
+---------------------------+---------------+----------------------------------------------------+
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
| 0     910B2               | OK            | 93.6        37                0    / 0             |
| 0                         | 0000:C1:00.0  | 0           0    / 0          3313 / 65536         |
+===========================+===============+====================================================+
| 1     910B2               | OK            | 91.2        36                0    / 0             |
| 0                         | 0000:01:00.0  | 12          0    / 0          41000/ 65536         |
+===========================+===============+====================================================+
+---------------------------+---------------+----------------------------------------------------+
| NPU     Chip              | Process id    | Process name             | Process memory(MB)      |
+===========================+===============+====================================================+
| No running processes found in NPU 0                                                            |
+===========================+===============+====================================================+
| 1       0                 | 3541          | python                   | 37600                   |
+===========================+===============+====================================================+
"""
# The same for a card of the inference series: names without letters, a device column, one memory.
ONE_OLD_CARD = """\
| npu-smi 23.0.0                                   Version: 23.0.0                                       |
| NPU     Name                  | Health          | Power(W)     Temp(C)           Hugepages-Usage(page) |
| Chip    Device                | Bus-Id          | AICore(%)    Memory-Usage(MB)                        |
| 0       310                   | OK              | 12.8         61                0     / 969           |
| 0       0                     | 0000:01:00.0    | 0            577  / 7759                             |
"""


def test_cards_are_read_from_the_table():
    assert checks.read_cards(TWO_CARDS) == [
        Card(0, "910B2", "OK", 3313, 65536),
        Card(1, "910B2", "OK", 41000, 65536),
    ]
    assert checks.read_cards(ONE_OLD_CARD) == [Card(0, "310", "OK", 577, 7759)]
    assert checks.read_cards("DrvMngGetConsoleLogLevel failed. (g_conLogLevel=3)\n") == []


def test_healthy_cards_pass_and_a_sick_one_is_named():
    assert checks.check_cards(lambda: TWO_CARDS) == (
        "2 healthy: 0 910B2 (3313 of 65536 MB in use), 1 910B2 (41000 of 65536 MB in use)"
    )
    sick = TWO_CARDS.replace("| 1     910B2               | OK     ", "| 1     910B2               | Warning")
    with pytest.raises(DeviceError, match=r"card 1 \(910B2\) is Warning.*ASCEND_RT_VISIBLE_DEVICES"):
        checks.check_cards(lambda: sick)
    with pytest.raises(DeviceError, match="lists no card"):
        checks.check_cards(lambda: "")


def npu_smi(folder: Path, body: str) -> str:
    tool = folder / "npu-smi"
    tool.write_text(f"#!/bin/sh\n{body}\n")
    tool.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def test_the_tool_is_run_and_its_failure_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match=r"npu-smi is not on PATH.*mount /usr/local/bin/npu-smi"):
        checks.run_smi()
    monkeypatch.setenv("PATH", npu_smi(tmp_path, 'echo "called with $1"'))
    assert checks.run_smi() == "called with info\n"
    npu_smi(tmp_path, 'echo "dcmi module initialize failed. ret is -8005"; exit 7')
    with pytest.raises(DeviceError, match="exit code 7: dcmi module initialize failed"):
        checks.run_smi()


def test_doctor_shows_the_machine_and_what_never_ran(tmp_path: Path, mix_core):
    (tmp_path / "cards").write_text(TWO_CARDS)
    done = mix_core("doctor", "npu", PATH=npu_smi(tmp_path, f"cat {tmp_path}/cards"), ASCEND_HOME_PATH="")
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert done.returncode == 1 and lines[-1] == "npu is not usable", "there is no card in /dev"
    assert any(line.startswith("ok npu-smi info 2 healthy: 0 910B2") for line in lines), lines
    assert any(line.startswith("warning hardware not run on hardware: settings, attention") for line in lines)


def test_driver_and_cann_versions_are_held_to_the_profile(tmp_path: Path):
    driver = tmp_path / "version.info"
    with pytest.raises(DeviceError, match="has no driver version"):
        checks.check_driver(driver)
    driver.write_text("Version=23.0.3\nascendhal_version=7.35.19\n")
    assert checks.check_driver(driver) == "driver 23.0.3"
    driver.write_text("Version=23.0.rc2\n")
    with pytest.raises(DeviceError, match=r"driver 23.0.rc2 is outside >=23.0.3"):
        checks.check_driver(driver)

    with pytest.raises(DeviceError, match="set ASCEND_HOME_PATH"):
        checks.check_cann({})
    (tmp_path / "lib64").mkdir()
    environ = {"ASCEND_HOME_PATH": str(tmp_path)}
    assert checks.check_cann(environ) == f"{tmp_path}, which does not tell its version"
    info = tmp_path / "ascend_toolkit_install.info"
    info.write_text("version=8.0.RC1\n")
    assert checks.check_cann(environ) == f"CANN 8.0.RC1 in {tmp_path}"
    info.write_text("version=7.0.1\n")
    with pytest.raises(DeviceError, match=r"CANN 7.0.1 is outside >=8.0"):
        checks.check_cann(environ)


def test_the_library_is_held_to_the_installed_cann(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "lib64").mkdir()
    (tmp_path / "ascend_toolkit_install.info").write_text("version=8.0.RC1\n")
    monkeypatch.setenv("ASCEND_HOME_PATH", str(tmp_path))
    assert toolchain.find_toolkit() == tmp_path
    told = {"version": "0.0.0", "commit": "9bfc65a7f110", "cann": "8.0.RC1"}
    assert checks.check_library(lambda: told).endswith("commit 9bfc65a7, built for CANN 8.0.RC1")
    with pytest.raises(DeviceError, match=r"was built for CANN 8.0.T13, this is CANN 8.0.RC1"):
        checks.check_library(lambda: told | {"cann": "8.0.T13"})


def test_the_forms_of_the_operators_are_shown():
    counts = {"flash_attention_npu": 10, "rms_norm_npu": 3, "fused_rope": 0}
    assert checks.check_operators(AscendKernels(count=counts.__getitem__)) == (
        "flash_attention_npu (10 arguments), rms_norm_npu (3 arguments); missing: fused_rope"
    )
    assert checks.check_operators(AscendKernels(count=lambda name: None)) == "no library to ask"


def test_the_runtime_is_paddle_s_with_the_versions_for_a_report(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(PaddleRuntime, "properties", lambda self: {"name": self.place})
    assert AscendRuntime(1).properties() == {
        "name": "npu:1",
        "driver": None,
        "cann": None,
        "paddle_custom_npu": None,
    }
