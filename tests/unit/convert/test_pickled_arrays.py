"""The reader of .pdparams files: what Paddle wrote is read bit for bit, and no pickle runs anything."""

from __future__ import annotations

import collections
import copyreg
import functools
import os
import pickle
import posix
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mix_core.convert import pickled_arrays
from mix_core.convert.pickled_arrays import BIG_SLICES
from mix_core.errors import WeightsError


def read_pickled_arrays(path: Path) -> dict[str, np.ndarray]:
    return {name: one.read() for name, one in pickled_arrays.read_pickled_arrays(path).items()}


class Reduced:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class Stated(Reduced):
    """So too, and sets a state on what the call gave."""

    def __reduce__(self):
        return (*self.call, {"__reduce__": "state"})


def attacks(canary: Path) -> dict[str, bytes]:
    """Pickles that would make the file `canary` if they were unpickled."""
    touch = f"touch {canary}"
    python = f"open({str(canary)!r}, 'w').close()"
    objects = {
        "os.system": Reduced(os.system, touch),
        "posix.system": Reduced(posix.system, touch),
        "subprocess": Reduced(subprocess.check_call, ["touch", str(canary)]),
        "builtins.eval": Reduced(eval, f"open({str(canary)!r}, 'w')"),
        "builtins.exec": Reduced(exec, python),
        "getattr": Reduced(getattr, Reduced(__import__, "os"), "system"),
        "partial alone": Reduced(functools.partial, os.system, touch),
        "map": Reduced(tuple, Reduced(map, os.system, [touch])),
        "nested": Reduced(tuple, [Reduced(collections.OrderedDict, [("a", Reduced(os.system, touch))])]),
        "in an array": np.array([Reduced(os.system, touch)], dtype=object),
        "after a state": Stated(os.system, touch),
        "copyreg": Reduced(copyreg._reconstructor, dict, object, None),
        "numpy's loader": Reduced(np.load, str(canary.with_suffix(".npy")), None, True),
        "numpy's memmap": Reduced(np.memmap, str(canary), "uint8", "w+", 0, (1,)),
        "numpy's execution": Reduced(np.lib.format.open_memmap, str(canary), "w+", "uint8", (1,)),
    }
    found = {name: pickle.dumps({"w": one}, protocol=4) for name, one in objects.items()}
    found["protocol 0"] = pickle.dumps({"w": objects["posix.system"]}, protocol=0)
    found["partial"] = b"cfunctools\npartial\n(cos\nsystem\nS'" + touch.encode() + b"'\ntR(tR."
    found["INST"] = b"(S'" + touch.encode() + b"'\nios\nsystem\n."
    found["OBJ"] = b"(cos\nsystem\nS'" + touch.encode() + b"'\no."
    found["NEWOBJ"] = b"\x80\x02cos\nsystem\n(S'" + touch.encode() + b"'\nt\x81."
    found["EXT1"] = b"\x80\x02\x82\x01."
    found["PERSID"] = b"Pos.system\n."
    found["dotted name"] = b"\x80\x04\x8c\x05numpy\x8c\x12os.system\x00\x00\x00\x00\x00\x00\x00\x00\x00\x93."
    found["ctypes through numpy"] = b"\x80\x04\x8c\x10numpy.ctypeslib\x8c\x06ctypes\x93."
    return found


NAMES = sorted(attacks(Path("/nowhere")))


@pytest.mark.parametrize("name", NAMES)
def test_a_malicious_pickle_executes_nothing(tmp_path, name):
    canary = tmp_path / "executed"
    path = tmp_path / "model_state.pdparams"
    path.write_bytes(attacks(canary)[name])
    with pytest.raises(
        WeightsError, match=r"model_state\.pdparams is (refused|truncated or no file)"
    ) as error:
        read_pickled_arrays(path)
    assert "\n" not in str(error.value)
    assert not canary.exists()


@pytest.mark.parametrize("name", ["os.system", "builtins.exec", "partial", "map", "protocol 0", "INST"])
def test_the_attacks_are_real(tmp_path, name):
    canary = tmp_path / "executed"
    pickle.loads(attacks(canary)[name])
    assert canary.exists(), "the test above would prove nothing"


def paddle_file(path: Path, arrays: dict[str, np.ndarray], **options) -> Path:
    import paddle

    paddle.save({name: paddle.to_tensor(values) for name, values in arrays.items()}, str(path), **options)
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_what_paddle_saves_is_read_bit_for_bit(tmp_path, protocol):
    rng = np.random.default_rng(0)
    arrays = {
        "a.weight": rng.standard_normal((3, 5), dtype=np.float32),
        "half": rng.standard_normal((2, 3, 4)).astype(np.float16),
        "brain": rng.integers(0, 1 << 16, (7,)).astype(np.uint16),
        "scalar": np.array(3, np.int64),
        "empty": np.zeros((0, 4), np.float32),
    }
    found = read_pickled_arrays(paddle_file(tmp_path / "a.pdparams", arrays, protocol=protocol))
    assert list(found) == list(arrays)
    for name, values in arrays.items():
        assert found[name].dtype == values.dtype and found[name].shape == values.shape
        assert found[name].tobytes() == values.tobytes(), name


def test_ordered_dicts_pairs_fortran_order_and_cut_arrays(tmp_path):
    big = np.arange(10, dtype=np.float32)
    state = collections.OrderedDict()
    state["pair"] = ("linear_0.w_0", np.arange(4, dtype=np.float32))
    state["fortran"] = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    state["big@@.0"], state["big@@.1"] = big[:6], big[6:]
    state[BIG_SLICES] = {"big": {"OriginShape": (2, 5), "slices": ["big@@.0", "big@@.1"]}}
    path = tmp_path / "a.pdparams"
    path.write_bytes(pickle.dumps(state, protocol=2))
    found = read_pickled_arrays(path)
    assert sorted(found) == ["big", "fortran", "pair"]
    assert np.array_equal(found["big"], big.reshape(2, 5))
    assert np.array_equal(found["fortran"], state["fortran"]) and np.array_equal(found["pair"], np.arange(4))


def test_forged_lengths_and_shapes_claim_no_memory(tmp_path):
    huge = (1 << 60).to_bytes(8, "little")
    whole = pickle.dumps({"w": np.zeros((4, 4), np.float32)}, protocol=4)
    forged_shape = whole.replace(b"K\x04K\x04\x86", b"J\xff\xff\xff\x7fK\x04\x86")
    assert forged_shape != whole
    for data in (b"\x80\x04\x8e" + huge + b"abc", b"\x80\x04\x8d" + huge + b"abc", forged_shape):
        path = tmp_path / "a.pdparams"
        path.write_bytes(data)
        with pytest.raises(WeightsError, match="truncated or no file of arrays"):
            read_pickled_arrays(path)


@pytest.fixture(scope="module")
def sound() -> bytes:
    return pickle.dumps({"w": np.arange(12, dtype=np.float32), "b": np.zeros(3, np.uint16)}, protocol=4)


def test_every_truncation_is_one_clear_line(tmp_path, sound):
    path = tmp_path / "a.pdparams"
    for end in range(len(sound)):
        path.write_bytes(sound[:end])
        with pytest.raises(WeightsError, match=r"a\.pdparams is truncated or no file of arrays") as error:
            read_pickled_arrays(path)
        assert "\n" not in str(error.value)


@given(st.binary(max_size=60))
def test_no_bytes_break_the_reader(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "random.pdparams"
    path.write_bytes(data)
    with pytest.raises(WeightsError):
        read_pickled_arrays(path)


def test_a_name_cannot_break_the_line_of_its_refusal(tmp_path):
    (path := tmp_path / "named.pdparams").write_bytes(b"\x80\x04\x8c\x03o\ns\x8c\x07sys\x1btem\x93.")
    with pytest.raises(WeightsError) as refused:
        read_pickled_arrays(path)
    assert "it names o?s.sys?tem;" in str(refused.value) and str(refused.value).isprintable()


@given(st.data())
def test_a_changed_byte_gives_arrays_or_one_line(tmp_path_factory, sound, data):
    place = data.draw(st.integers(0, len(sound) - 1))
    changed = bytearray(sound)
    changed[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "changed.pdparams"
    path.write_bytes(bytes(changed))
    try:
        found = read_pickled_arrays(path)
    except WeightsError as error:
        assert "\n" not in str(error)
    else:
        assert all(isinstance(values, np.ndarray) and values.dtype != object for values in found.values())


def test_other_contents_are_refused_with_their_kind(tmp_path):
    path = tmp_path / "a.pdparams"
    for content, reason in (
        (pickle.dumps([1, 2]), "expected a dict of arrays"),
        (pickle.dumps({"lr": 0.1}), "lr is no array"),
        (b"<html>not found</html>", "truncated or no file of arrays"),
        (b"", "truncated or no file of arrays"),
    ):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=reason):
            read_pickled_arrays(path)
    with pytest.raises(WeightsError, match="cannot be read"):
        read_pickled_arrays(tmp_path / "none.pdparams")
