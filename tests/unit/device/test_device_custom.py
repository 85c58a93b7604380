"""A plugin whose chip is a real custom device of Paddle, from its environment to its random state."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mix_core.device import native

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.skipif(native.find_compiler()[0] is None, reason=native.find_compiler()[1])

USE = """
import json
import mix_core.device as d
a = d.activate("pocket:1")
import paddle
x = paddle.ones([1 << 16]) + 1
a.runtime.synchronize()
held = a.runtime.memory_stats()
paddle.seed(3)
paddle.rand([2])
state = a.runtime.get_random_state()
first = paddle.rand([4]).tolist()
a.runtime.set_random_state(state)
again = paddle.rand([4]).tolist()
placed = str(x.place)
del x
a.runtime.empty_cache()
a.runtime.reset_peak_memory()
print(json.dumps({
    "place": a.place, "x": placed, "held": held, "left": a.runtime.memory_stats(), "same": first == again,
    "state": {name: str(array.dtype) for name, array in state.items()}, "properties": a.runtime.properties(),
}))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder with the device's library, and nothing else: Paddle loads every library in it."""
    folder = tmp_path_factory.mktemp("pocket")
    paddle = native.paddle_folder()
    flags = ["-DPADDLE_WITH_CUSTOM_DEVICE", f"-I{paddle / 'include'}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(native.CACHE_VARIABLE, str(folder / "cache"))
        built = native.build("libpocket", [ROOT / "tests/plugins/pocket/device.cc"], flags)
    (folder / "lib").mkdir()
    built.rename(folder / "lib" / "libpocket.so")
    return str(folder / "lib")


def test_a_custom_device_runs_through_its_plugin(start, library: str):
    done = start(["-c", USE], plugins=["pocket"], POCKET_LIB=library)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["place"] == "pocket:1" and "pocket:1" in seen["x"]
    assert seen["held"]["allocated"] >= (1 << 18) and seen["held"]["peak"] >= seen["held"]["allocated"]
    assert seen["left"]["peak"] < seen["held"]["peak"]
    assert seen["same"] is True
    parts = {
        "device_header": "int64",
        "device_engine": "uint8",
        "host_header": "int64",
        "host_engine": "uint8",
    }
    assert seen["state"] == parts
    assert seen["properties"]["name"] == "pocket:1"


def test_a_library_that_does_not_load_is_named_and_nothing_dies(start, library: str, tmp_path: Path):
    (tmp_path / "bad").mkdir()
    bad = tmp_path / "bad" / "libpocket.so"
    bad.write_text("no library")
    use = (
        "import sys; import mix_core.device as d; from mix_core.cli.main import guarded\n"
        "sys.exit(guarded(lambda: d.activate('pocket'), []))"
    )
    cache = str(tmp_path / "cache")
    done = start(["-c", use], plugins=["pocket"], POCKET_LIB=str(bad.parent), MIX_CACHE=cache)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert str(bad) in done.stderr and "file too short" in done.stderr
    good = start(["-c", use], plugins=["pocket"], POCKET_LIB=library, MIX_CACHE=cache)
    assert good.returncode == 0, good.stderr
    assert len(list((tmp_path / "cache" / "native" / "loaded").iterdir())) == 1


def test_the_doctor_finds_it_usable_and_names_a_library_that_is_not_one(start, library: str, tmp_path: Path):
    doctor = ["-m", "mix_core.cli.main", "doctor", "pocket", "--json"]
    good = json.loads(start(doctor, plugins=["pocket"], POCKET_LIB=library).stdout)
    assert good["usable"] is True
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "libpocket.so").write_text("no library")
    done = start(doctor, plugins=["pocket"], POCKET_LIB=str(tmp_path / "bad"))
    bad = json.loads(done.stdout)
    errors = [check for check in bad["checks"] if check["state"] == "error"]
    assert done.returncode == 1 and not bad["usable"] and len(errors) == 1
    assert "libpocket.so" in errors[0]["detail"]
