"""What is refused before a device starts, real or simulated: one line each."""

from __future__ import annotations

import dataclasses
import sys

import pytest

from mix_core.device import choice, preparation, simulate
from mix_core.device.profile import VersionRange
from mix_core.errors import BadInputError


@pytest.fixture
def profile():
    return choice.choose("cpu", None, {}).candidate.profile


@pytest.mark.parametrize(("bounds", "fits"), [(">=3.0,<4", True), (">=9.0", False), ("<3.0", False)])
def test_another_paddle_is_refused_with_both_versions(profile, bounds, fits):
    meant = dataclasses.replace(profile, paddle_versions=VersionRange(bounds, "its guide"))
    if fits:
        preparation.refuse_other_paddle(meant)
        return
    with pytest.raises(BadInputError, match=rf"needs Paddle {bounds} \(its guide\), found 3\.3"):
        preparation.refuse_other_paddle(meant)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"MIX_SIM_DEVICES": "0"}, "MIX_SIM_DEVICES is '0'; give a number of devices from 1 to 16"),
        ({"MIX_SIM_DEVICES": "two"}, "MIX_SIM_DEVICES is 'two'"),
        ({"MIX_SIM_PROTECT": "yes"}, "MIX_SIM_PROTECT is 'yes'; give 1"),
        ({"MIX_SIM_TABLE": "most"}, "MIX_SIM_TABLE is 'most'; give chip, all, or a file"),
        ({"MIX_SIM_MEMORY": "3 cows"}, "MIX_SIM_MEMORY is '3 cows'; give at least 1MiB"),
        ({"MIX_SIM_MEMORY": "1KiB"}, "at least 1MiB"),
        ({"MIX_SIM_FAULTS": "copy"}, "simulated fault 'copy' is unknown"),
    ],
)
def test_a_wrong_simulation_is_refused(variables, said):
    with pytest.raises(BadInputError) as refused:
        simulate.requested(variables)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_sizes():
    assert simulate.parse_size("512MiB") == 512 << 20
    assert simulate.parse_size("2 GiB") == 2 << 30
    assert simulate.parse_size("1048576") == 1 << 20


def test_a_real_library_beside_the_simulated_one_is_refused(tmp_path):
    (tmp_path / "libchip.so").touch()
    with pytest.raises(BadInputError, match=r"a real device's library is here \(.*libchip\.so\)"):
        simulate.refuse_if_impossible({"CUSTOM_DEVICE_ROOT": str(tmp_path)})
    (tmp_path / "libchip.so").rename(tmp_path / "libmix_sim.so")
    simulate.refuse_if_impossible({"CUSTOM_DEVICE_ROOT": str(tmp_path)})


def test_an_index_beyond_the_simulated_devices_is_bad_input(start):
    code = (
        "import sys; import mix_core.device as d; from mix_core.cli.main import guarded\n"
        "sys.exit(guarded(lambda: d.activate('acme:2', simulate=True), []))"
    )
    done = start(["-c", code], plugins=["acme"], MIX_SIM_DEVICES="2")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "device acme:2 does not exist: 2 simulated; set MIX_SIM_DEVICES for more" in done.stderr


def test_the_chip_s_variable_hides_simulated_devices(profile):
    chip = dataclasses.replace(profile, visible_devices_variable="CHIP_VISIBLE")
    four = simulate.Simulation(devices=4)
    assert simulate.visible(four, chip, {}).devices == 4
    assert simulate.visible(four, chip, {"CHIP_VISIBLE": "1, 3"}).devices == 2
    for wrong in ("4", "a", ","):
        with pytest.raises(BadInputError, match=r"CHIP_VISIBLE is .* there are 4 simulated devices"):
            simulate.visible(four, chip, {"CHIP_VISIBLE": wrong})


def test_run_confines_a_program_to_the_device_it_names(start):
    command = [
        "-m",
        "mix_core.cli.main",
        "run",
        "--device",
        "npu:1",
        "--simulate",
        "--",
        sys.executable,
        "-c",
    ]
    code = "import paddle; print(paddle.device.get_available_custom_device())"
    done = start([*command, code], plugins=["mix_device_npu"], MIX_SIM_DEVICES="2")
    assert (done.returncode, done.stdout.strip()) == (0, "['npu']"), done.stderr
