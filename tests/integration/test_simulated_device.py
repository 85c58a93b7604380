"""The simulated device as a program meets it: memory, threads, streams, 16-bit kernels, views, fork."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from mix_core.device import native
from tests.environment import run_simulated

pytestmark = pytest.mark.skipif(native.find_compiler()[0] is None, reason=native.find_compiler()[1])
PROGRAM = Path(__file__).parent / "simulated_program.py"
ACTIVATE = "import mix_core.device as d; d.activate(); import paddle\n"
GIB = 1 << 30


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict:
    done = run_simulated(
        [PROGRAM], tmp_path_factory.mktemp("seen"), MIX_SIM_DEVICES="2", MIX_SIM_MEMORY="1GiB"
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_it_bears_the_chip_s_type(seen):
    assert (seen["place"], seen["simulated"], seen["types"]) == ("npu:0", True, ["npu"])


def test_out_of_memory_is_paddle_s_own_error_and_the_process_goes_on(seen):
    memory = seen["memory"]
    assert memory["held"] == 4 << 20 and memory["limit"] == GIB
    for error in (memory["error"], memory["second"]):
        assert error.startswith("MemoryError") and "Out of memory error on npu:0" in error
    assert memory["in_backward"] == "" and memory["after"] == 2.0 * (1 << 20)
    assert seen["counters"]["memory"][0]["peak"] < GIB


def test_each_thread_has_its_own_device(seen):
    assert seen["threads"]["wrong"] == []
    grown = seen["threads"]["grown"]  # device 0 may have had room in a chunk that Paddle keeps
    assert grown["1"] >= 32 * 4096 * 4 > grown["0"]


def test_a_copy_to_another_device_is_complete_before_its_source_s_memory_serves_again(seen):
    assert seen["peers"] == {"reused": True, "copied": 3.0, "written": 4.0}


def test_a_stream_works_while_the_caller_goes_on(seen):
    streams = seen["streams"]
    assert streams["event"] and streams["queued"] < 0.2 <= streams["waited"]
    assert streams["sum"] == pytest.approx((1 << 16) * ((1 << 16) - 1) / 2, rel=1e-6)


@pytest.mark.parametrize(("dtype", "unit"), [("bfloat16", 2.0**-8), ("float16", 2.0**-11)])
def test_half_types_compute_on_the_device(seen, dtype, unit):
    half = seen["halves"][dtype]
    assert half["place"] == "Place(npu:0)"
    assert half["gradient"] == [f"paddle.{dtype}", "Place(npu:0)", True]
    assert 0 < half["error"] <= unit, "one rounding of a float32 product"


def test_an_operator_of_the_old_tracer_stays_on_the_device(seen):
    assert seen["tracer"]["places"] == ["Place(npu:0)"] * 2
    assert seen["tracer"]["values"] == [[8.0, 9.0, 10.0, 11.0], [12.0, 13.0, 14.0, 15.0]]


def test_the_plugin_turns_views_off(seen):
    assert seen["views"] == {"aliases": False, "turned": [[0, 3], [1, 4], [2, 5]]}


def test_the_black_list_has_its_effect(seen):
    counters = seen["counters"]
    assert "set_value:int64" in counters["fallbacks"], "the plugin lists set_value"
    assert "set_value:int64" not in counters["kernels"]
    assert counters["fallbacks"]["set_value:int64"]["bytes"] > 0


@pytest.mark.parametrize("flag", ["0", "1"])
def test_both_values_of_the_stride_flag_run(tmp_path, flag):
    code = ACTIVATE + (
        "x = paddle.arange(24, dtype='float32').reshape([2, 3, 4]); y = x.transpose([2, 0, 1])\n"
        "s = x[0]; s[0] = 7.0\n"
        "print(float((y[1:] * 2).sum()), float(x.sum()), y.is_contiguous())"
    )
    # a chip without a black list: where set_value falls back, no view survives it
    done = run_simulated(["-c", code], tmp_path, device="xpu", FLAGS_use_stride_kernel=flag)
    assert done.returncode == 0, done.stderr
    plain, written = ("432.0", "276.0"), ("462.0", "298.0")
    total = done.stdout.split()
    assert tuple(total[:2]) == (plain if flag == "0" else written)
    assert total[2] == ("True" if flag == "0" else "False")


@pytest.mark.parametrize(("device", "kind"), [("xpu", "sim_xpu"), ("gpu", "sim_gpu")])
def test_names_that_paddle_keeps_get_a_prefix(tmp_path, device, kind):
    code = ACTIVATE + "x = paddle.ones([4, 4], dtype='bfloat16'); print((x @ x).place, float((x @ x).sum()))"
    done = run_simulated(["-c", code], tmp_path, device=device)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [f"Place({kind}:0)", "64.0"]


def test_a_forked_child_is_refused_with_a_sentence(tmp_path):
    code = ACTIVATE + (
        "import os, sys\nx = paddle.ones([3])\npid = os.fork()\n"
        "if pid == 0:\n"
        "    try: print((x + 1).numpy())\n"
        "    except Exception as error: print('refused', type(error).__name__, flush=True)\n"
        "    os._exit(0)\n"
        "os.waitpid(pid, 0); print((x + 1).numpy().tolist())"
    )
    done = run_simulated(["-c", code], tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("refused") and lines[1] == "[2.0, 2.0, 2.0]"
    assert "was forked after the simulated device came into use" in done.stderr


TOUCH = (
    ACTIVATE + "import ctypes\nx = paddle.ones([4])\nprint(ctypes.c_float.from_address(x.data_ptr()).value)"
)


def test_the_host_cannot_touch_device_memory(tmp_path):
    done = run_simulated(["-c", TOUCH], tmp_path)
    assert done.returncode == -signal.SIGSEGV
    assert "mix-sim: the host touched memory of the simulated device" in done.stderr
    done = run_simulated(["-c", TOUCH], tmp_path, MIX_SIM_PROTECT="0")
    assert (done.returncode, done.stdout.strip()) == (0, "1.0")


def test_counters_are_printed_and_written_when_asked(tmp_path):
    code = ACTIVATE + "x = paddle.ones([256, 256]); print(float((x @ x).sum()))"
    done = run_simulated(
        ["-c", code], tmp_path, MIX_SIM_REPORT="1", MIX_SIM_COUNTERS=str(tmp_path / "c.json")
    )
    assert done.returncode == 0, done.stderr
    assert "simulated npu:" in done.stderr and "copies: " in done.stderr
    written = json.loads((tmp_path / "c.json").read_text())
    rows = {row["kernel"]: row for row in written["kernels"]}
    assert rows["matmul"]["calls"] == 1 and rows["matmul"]["bytes"] == 3 * 256 * 256 * 4
    assert written["copies"]["device_to_host"]["bytes"] >= 4


def test_an_operator_that_the_table_lacks_falls_back_or_raises(tmp_path):
    table = tmp_path / "table.txt"
    table.write_text(
        "full float32 bfloat16\nfull_like float32\nmatmul float32\ncast float32 bfloat16\nsum float32\n"
    )
    code = ACTIVATE + (
        "from mix_core.device import simulate\nimport json\n"
        "x = paddle.ones([8, 8]); y = paddle.tanh(x) @ x; place = str(y.place)\n"
        "try: paddle.tanh(x.astype('bfloat16')); error = ''\n"
        "except Exception as e: error = str(e)\n"
        "print(json.dumps([place, error, simulate.counters()['fallbacks']]))"
    )
    done = run_simulated(["-c", code], tmp_path, MIX_SIM_TABLE=str(table))
    assert done.returncode == 0, done.stderr
    place, error, fallbacks = json.loads(done.stdout.splitlines()[-1])
    assert place == "Place(npu:0)" and fallbacks["tanh:float32"] == {"calls": 1, "bytes": 2 * 8 * 8 * 4}
    assert "tanh" in error and "not registered" in error
