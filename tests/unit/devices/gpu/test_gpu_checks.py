"""What doctor reads: `nvidia-smi` in its documented form, CUDA; and the runtime's device."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mix_device_gpu.profile import PROFILE

from mix_core.plugin_api import DeviceError
from mix_device_gpu import checks, kernels, plugin

# --query-gpu=index,name,driver_version,memory.used,memory.total,compute_cap --format=csv,noheader,nounits
SMI = """\
0, NVIDIA H100 80GB HBM3, 550.54.15, 0, 81559, 9.0
1, Tesla V100-SXM2-32GB, 550.54.15, 512, 32768, 7.0
"""


def test_rows_of_nvidia_smi_are_read():
    assert checks.read_cards(SMI) == [
        checks.Card(0, "NVIDIA H100 80GB HBM3", "550.54.15", 0, 81559, (9, 0)),
        checks.Card(1, "Tesla V100-SXM2-32GB", "550.54.15", 512, 32768, (7, 0)),
    ]
    said = checks.check_cards(lambda: SMI)
    assert said.startswith("driver 550.54.15; 0 NVIDIA H100 80GB HBM3 (0 of 81559 MiB in use, ")
    assert "compute capability 9.0: bfloat16)" in said
    assert "compute capability 7.0: no bfloat16, take float16)" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SMI.replace("550.54.15", "418.40.04"), "driver 418.40.04 is outside >=450.80.02"),
        ("", "lists no card: start the container with --gpus all"),
        ("No devices were found\n", "printed 'No devices were found', expected index, name"),
        ("0, H100, 550.54.15, [N/A], 81559, 9.0\n", "expected index, name, driver_version"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(text: str, said: str):
    with pytest.raises(DeviceError) as error:
        checks.check_cards(lambda: text)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_tool_that_is_missing_or_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="nvidia-smi is not in PATH: install the driver"):
        checks.run_smi()
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho Driver/library version mismatch\nexit 18\n")
    tool.chmod(0o755)
    with pytest.raises(DeviceError, match="exit code 18: Driver/library version mismatch"):
        checks.run_smi()
    tool.write_text(f'#!/bin/sh\necho "$@" > "$0.asked"\n/bin/cat <<\'END\'\n{SMI}END\n')
    assert "Tesla V100" in checks.check_cards()
    asked = (tmp_path / "nvidia-smi.asked").read_text().split()
    fields = "index,name,driver_version,memory.used,memory.total,compute_cap"
    assert asked == [f"--query-gpu={fields}", "--format=csv,noheader,nounits"]


@pytest.mark.parametrize(
    ("cuda", "driver", "said"),
    [
        ("12.6", "550.54.15", "CUDA 12.6, driver 550.54.15"),
        ("11.8", "470.82.01", "CUDA 11.8, driver 470.82.01"),
        ("12.6", "470.82.01", "needs a driver >=525.60.13"),
        ("13.0", "550.54.15", "needs a driver >=580.65.06"),
        ("14.0", "550.54.15", "CUDA 14.0, whose least driver is not known here"),
    ],
)
def test_cuda_of_paddle_against_the_driver(cuda: str, driver: str, said: str):
    def smi() -> str:
        return SMI.replace("550.54.15", driver)

    if "needs" not in said:
        assert checks.check_cuda(lambda: cuda, smi) == said
        return
    with pytest.raises(DeviceError) as error:
        checks.check_cuda(lambda: cuda, smi)
    assert said in str(error.value) and f"found {driver}" in str(error.value)


def test_the_cpu_wheel_is_a_simulated_device():
    assert checks.check_cuda(smi=lambda: pytest.fail("no card to ask")).endswith("a simulated device")


def test_doctor_says_what_has_not_run(command):
    done = command("doctor", "gpu", "--json", PATH="/usr/bin:/bin")
    assert done.returncode == 1, done.stderr
    found = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert found["probe gpu"]["state"] == "error" and "no /dev/nvidia*" in found["probe gpu"]["detail"]
    assert "nvidia-smi is not in PATH" in found["cards by nvidia-smi"]["detail"]
    said = found["hardware"]["detail"]
    assert said.startswith("not run on hardware: ")
    for op in kernels.DTYPES:
        assert op in said
    readme = (Path(__file__).resolve().parents[4] / "mix_device_gpu" / "README.md").read_text()
    for what in PROFILE.not_run_on_hardware:
        assert what.split(" (")[0] in readme.replace("`", ""), what


def test_an_old_driver_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  418.40.04  Release\n")
    monkeypatch.setattr(plugin, "device_files", lambda pattern: ["nvidia0"])
    monkeypatch.setattr(plugin, "installed_version", lambda distribution: "3.3.1")
    monkeypatch.setattr(plugin, "DRIVER_FILE", tmp_path / "version")
    found = plugin.mix_probe()
    assert found.state == "broken" and "driver 418.40.04 is outside >=450.80.02" in found.reason
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Release\n")
    assert plugin.mix_probe().state == "usable"


def test_the_runtime_is_of_the_device_that_paddle_has_active():
    with pytest.raises(DeviceError, match="active device is the CPU, expected a GPU"):
        plugin.mix_runtime(0)
