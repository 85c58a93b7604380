"""What doctor reads: `xpu-smi` in the public form, versions; and the device of the runtime."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mix_device_xpu.profile import PROFILE

from mix_core.plugin_api import DeviceError
from mix_device_xpu import checks, kernels, plugin

# The head and two of the eight cards of the output that PaddleFleet's Kunlun guide prints.
SMI = """\
Thu Feb  5 13:00:00 2026
+-----------------------------------------------------------------------------+
| XPU-SMI               Driver Version: 5.0.21.26    XPU-RT Version: 5.0.21   |
|-------------------------------+----------------------+----------------------+
| XPU  Name        Persistence-M| Bus-Id        Disp.A | Volatile Uncorr. ECC |
| Fan  Temp  Perf  Pwr:Usage/Cap|         Memory-Usage | XPU-Util  Compute M. |
|                               |             L3-Usage |            SR-IOV M. |
|===============================+======================+======================|
|   0  P800 OAM           N/A   | 00000000:03:00.0 N/A |                    0 |
| N/A   37C  N/A     85W / 400W |      0MiB / 98304MiB |      0%      Default |
|                               |      0MiB /    96MiB |             Disabled |
+-------------------------------+----------------------+----------------------+
|   1  P800 OAM           N/A   | 00000000:05:00.0 N/A |                    0 |
| N/A   41C  N/A     86W / 400W |    512MiB / 98304MiB |      0%      Default |
|                               |      0MiB /    96MiB |             Disabled |
+-------------------------------+----------------------+----------------------+

+-----------------------------------------------------------------------------+
| Processes:                                                                  |
|  XPU   XI   CI        PID   Type   Process name                  XPU Memory |
|        ID   ID                                                   Usage      |
|=============================================================================|
|  No running processes found                                                 |
+-----------------------------------------------------------------------------+
"""


def test_the_table_of_xpu_smi_is_read():
    found = checks.read_smi(SMI)
    assert (found.driver, found.runtime) == ("5.0.21.26", "5.0.21")
    assert found.cards == (
        checks.Card(0, "P800 OAM", "00000000:03:00.0", 0, 98304),
        checks.Card(1, "P800 OAM", "00000000:05:00.0", 512, 98304),
    )
    assert PROFILE.memory_bytes.value == found.cards[0].memory_mib << 20


def test_cards_and_versions_are_told():
    said = checks.check_cards(lambda: SMI)
    assert said == "2 x P800 OAM, 98304 MiB each, driver 5.0.21.26, XPU-RT 5.0.21"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SMI.replace("5.0.21.26", "5.0.20.1 "), "driver 5.0.20.1 is outside >=5.0.21.14 (PaddleMIX's Kunlun"),
        (SMI.replace("Version: 5.0.21 ", "Version: 4.9    "), "XPU-RT 4.9 is outside >=5.0.21"),
        ("\n".join(SMI.splitlines()[:9]), "lists no card (driver 5.0.21.26)"),
        (
            "xpu-smi: cannot open /dev/xpuctrl\n",
            "printed 'xpu-smi: cannot open /dev/xpuctrl', expected a table",
        ),
        ("", "printed 'nothing'"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(text: str, said: str):
    with pytest.raises(DeviceError) as error:
        checks.check_cards(lambda: text)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_tool_that_is_missing_or_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="mount /usr/local/bin/xpu-smi"):
        checks.run_smi()
    tool = tmp_path / "xpu-smi"
    tool.write_text("#!/bin/sh\necho no driver >&2\nexit 9\n")
    tool.chmod(0o755)
    with pytest.raises(DeviceError, match="exit code 9: no driver"):
        checks.run_smi()
    tool.write_text(f"#!/bin/sh\n/bin/cat <<'END'\n{SMI}END\n")
    assert checks.check_cards().startswith("2 x P800 OAM")


def test_versions_that_paddle_was_built_for():
    versions = {"xpu": "20250901", "xpu_xre": "5.0.21.21", "xpu_xhpc": "20250722"}
    assert checks.check_versions(lambda: versions) == "xpu 20250901, xpu_xre 5.0.21.21, xpu_xhpc 20250722"
    assert "a simulated device" in checks.check_versions()  # the CPU wheel of the tests


def test_the_extension_is_told():
    assert "is not installed: rms_norm runs as the reference" in checks.check_extension()
    assert checks.check_extension(lambda: True) == "paddle_xpu_nn serves rms_norm"


def test_doctor_says_what_has_not_run(command):
    done = command("doctor", "xpu", "--json", PATH="/usr/bin:/bin")
    assert done.returncode == 1, done.stderr
    found = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert found["probe xpu"]["state"] == "error" and "no /dev/xpu*" in found["probe xpu"]["detail"]
    assert "xpu-smi is not in PATH" in found["cards by xpu-smi"]["detail"]
    said = found["hardware"]["detail"]
    assert said.startswith("not run on hardware: ")
    for op in kernels.DTYPES:
        assert op in said
    readme = (Path(__file__).resolve().parents[4] / "mix_device_xpu" / "README.md").read_text()
    for what in PROFILE.not_run_on_hardware:
        assert what.split(" (")[0] in readme.replace("`", ""), what


def test_the_runtime_is_of_the_device_that_paddle_has_active():
    with pytest.raises(DeviceError, match="active device is the CPU, expected an XPU"):
        plugin.mix_runtime(0)
