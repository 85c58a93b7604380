"""`mix-core new-device`: what it writes, that it is a plugin at once, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mix_core.device import native
from mix_core.errors import BadInputError
from mix_core.scaffold.custom_device import CustomDevice, by_type
from mix_core.scaffold.new_device import fill, write_device
from tests.plugins.installed import FOLDER

COMMAND = ["-m", "mix_core.cli.main"]
NEW = [*COMMAND, "new-device"]
CUSTOM = CustomDevice("pocket", Path("/opt/lib/libpocket.so"), "3.3.1", {"add": ["float32"]})
needs_compiler = pytest.mark.skipif(native.find_compiler()[0] is None, reason=native.find_compiler()[1])


@pytest.mark.parametrize("custom", [None, CUSTOM], ids=["of_its_own", "of_a_library"])
def test_it_is_less_than_60_lines_of_python(tmp_path: Path, custom: CustomDevice | None):
    files = write_device("toy", tmp_path, custom)
    python = [path for path in files if path.suffix == ".py"]
    assert len(python) == 2
    assert sum(len(path.read_text().splitlines()) for path in python) < 60
    assert [
        path for path in files if "@" in path.name or "@" in path.read_text().replace("@hookimpl", "")
    ] == []


def test_the_command_writes_a_plugin_that_is_listed(start, tmp_path: Path):
    done = start([*NEW, "toy_2"])
    assert done.returncode == 0, done.stderr
    written = [line.removeprefix("wrote ") for line in done.stdout.splitlines() if line.startswith("wrote ")]
    assert "mix_device_toy_2/src/mix_device_toy_2/plugin.py" in written
    assert all((tmp_path / path).is_file() for path in written)
    assert "mix-core conformance --device toy_2 --simulate" in done.stdout
    rows = json.loads(
        start([*COMMAND, "devices", "--json"], plugins=[str(tmp_path / "mix_device_toy_2")]).stdout
    )
    [row] = [row for row in rows if row["name"] == "toy_2"]
    assert (row["distribution"], row["state"]) == ("mix-device-toy-2", "absent")
    assert row["reason"] == "no /dev/toy_2* device file"


def test_a_device_that_is_there_is_counted(start, tmp_path: Path):
    write_device("toy", tmp_path)
    module = tmp_path / "mix_device_toy/src/mix_device_toy/plugin.py"
    (tmp_path / "toy0").touch()
    module.write_text(module.read_text().replace(r'r"toy\d+"', rf'r"toy\d+", "{tmp_path}"'))
    rows = json.loads(
        start([*COMMAND, "devices", "--json"], plugins=[str(tmp_path / "mix_device_toy")]).stdout
    )
    [row] = [row for row in rows if row["name"] == "toy"]
    assert (row["state"], row["reason"]) == ("usable", "1 cards in /dev")


@needs_compiler
def test_it_passes_the_contract_at_once(start, tmp_path: Path):
    write_device("toy", tmp_path)
    words = ["conformance", "--device", "toy", "--simulate", "--only-level", "0"]
    done = start([*COMMAND, *words], plugins=[str(tmp_path / "mix_device_toy")], timeout_s=400.0)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "20 passed" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cpu"], "device name 'cpu' is taken: mix-core "),
        (["acme"], "device name 'acme' is taken: mix-device-acme 0.1.0 provides it; choose another name"),
        (["Toy"], "device name 'Toy' cannot be used: small letters, digits and single _"),
        (["2toy"], "device name '2toy' cannot be used"),
        (["my-chip"], "device name 'my-chip' cannot be used"),
        (["toy_"], "device name 'toy_' cannot be used"),
        (["toy:1"], "device name 'toy:1' cannot be used"),
        (["auto"], "device name 'auto' cannot be used"),
        (["../toy"], "device name '../toy' cannot be used"),
        (["there"], "mix_device_there exists; remove it"),
        (
            ["toy", "--from-custom-device", "warp"],
            "no custom device of type 'warp' is installed; found: none",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(start, tmp_path: Path, words: list[str], said: str):
    (tmp_path / "mix_device_there").mkdir()
    done = start([*NEW, *words], plugins=["acme"])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and said in done.stderr and done.stderr.count("\n") == 1
    assert list((tmp_path / "mix_device_there").iterdir()) == []
    assert not (tmp_path / "mix_device_toy").exists()


def test_a_name_is_taken_also_where_the_plugin_is_left_out(start):
    done = start([*NEW, "acme"], plugins=["acme"], MIX_DEVICES_LOAD="")
    assert done.returncode == 2 and "is taken" in done.stderr


def test_a_library_that_does_not_load_is_named(start, tmp_path: Path):
    bad = FOLDER / "unlinked/src/unlinked_libraries"
    done = start([*NEW, "toy", "--from-custom-device", "unlinked"], CUSTOM_DEVICE_ROOT=str(bad))
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert str(bad / "libunlinked.so") in done.stderr and "file too short" in done.stderr


def test_a_folder_that_cannot_be_written_is_bad_input(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(BadInputError, match="mix_device_toy cannot be written: Not a directory"):
        write_device("toy", tmp_path / "file")


@needs_compiler
def test_it_takes_type_and_kernels_from_an_installed_custom_device(start, tmp_path: Path, monkeypatch):
    root = tmp_path / "lib"
    root.mkdir()
    flags = ["-DPADDLE_WITH_CUSTOM_DEVICE", f"-I{native.paddle_folder() / 'include'}"]
    monkeypatch.setenv(native.CACHE_VARIABLE, str(tmp_path / "cache"))
    native.build("libpocket", [FOLDER / "pocket/device.cc"], flags).rename(root / "libpocket.so")
    variables = {"CUSTOM_DEVICE_ROOT": str(root), "MIX_CACHE": str(tmp_path / "cache")}
    unknown = start([*NEW, "toy", "--from-custom-device", "poket"], **variables)
    assert unknown.returncode == 2 and "found: pocket (libpocket.so)" in unknown.stderr
    done = start([*NEW, "toy", "--from-custom-device", "pocket"], **variables)
    assert done.returncode == 0, done.stderr
    table = json.loads((tmp_path / "mix_device_toy/src/mix_device_toy/operators.json").read_text())
    assert table["source"].startswith("kernels that libpocket.so registered with Paddle ")
    assert table["operators"] == {}, "it has none: everything falls back to the CPU"
    use = "import mix_core.device as d, paddle; d.activate('toy:1'); print((paddle.ones([2]) + 1).place)"
    used = start(["-c", use], plugins=[str(tmp_path / "mix_device_toy")], **variables)
    assert "pocket:1" in used.stdout, used.stderr


def test_paddle_s_list_of_kernels_is_sorted_by_type():
    registered = {
        "add": ["(acme, Undefined(AnyLayout), float32)", "(CPU, NCHW, float32)", "(acme, NCHW, bfloat16)"],
        "abs": ["(other, NCHW, int64)"],
    }
    assert by_type(registered, ["acme", "idle"]) == {"acme": {"add": ["bfloat16", "float32"]}, "idle": {}}


def test_an_unknown_mark_in_a_template_is_an_error():
    assert fill("@name@ at 3 @ 4", {"name": "toy"}) == "toy at 3 @ 4"
    with pytest.raises(KeyError):
        fill("@colour@", {"name": "toy"})
