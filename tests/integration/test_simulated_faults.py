"""Each fault of the simulated device that one process shows, and what a user sees of it."""

from __future__ import annotations

import json

import pytest

from mix_core.device import native, simulate_faults
from mix_core.errors import BadInputError
from tests.environment import run_simulated

needs_compiler = pytest.mark.skipif(native.find_compiler()[0] is None, reason=native.find_compiler()[1])
START = """
import json, time
import mix_core.device as d
d.activate()
import numpy as np
import paddle
from mix_core.device import simulate

def attempt(action):
    try:
        return ["ok", action()]
    except Exception as error:
        return [type(error).__name__, str(error)]

def report(**facts):
    print(json.dumps(facts | {"faults": simulate.control().faults()}))
"""


def facts_of(tmp_path, code: str, **variables: str) -> tuple[dict, str]:
    done = run_simulated(["-c", START + code], tmp_path, **variables)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


@needs_compiler
def test_allocations_that_fail(tmp_path):
    code = """
simulate.add_faults("alloc:fail,above=1048576")
big = attempt(lambda: str(paddle.ones([1 << 20]).place))
small = attempt(lambda: float(paddle.ones([4]).sum()))
first = simulate.control().faults()
simulate.clear_faults()
again = attempt(lambda: float(paddle.ones([1 << 20]).sum()))
report(big=big, small=small, again=again, first=first)
"""
    facts, _ = facts_of(tmp_path, code)
    assert facts["big"][0] == "MemoryError" and "Out of memory error on npu:0" in facts["big"][1]
    assert facts["small"] == ["ok", 4.0] and facts["again"] == ["ok", float(1 << 20)]
    assert facts["first"][0]["hits"] >= 1


@needs_compiler
def test_the_nth_allocation_fails_once(tmp_path):
    # Paddle frees what it keeps and tries again, so that one failure heals and costs nothing
    code = "x = attempt(lambda: float(paddle.ones([1 << 16]).sum()))\nreport(x=x)"
    facts, _ = facts_of(tmp_path, code, MIX_SIM_FAULTS="alloc:fail,nth=1")
    assert facts["faults"] == [{"fault": "alloc:fail,nth=1", "calls": facts["faults"][0]["calls"], "hits": 1}]
    assert facts["x"] == ["ok", float(1 << 16)]


@needs_compiler
def test_copies_that_fail_or_corrupt(tmp_path):
    code = """
x = paddle.arange(1024, dtype="float32")
simulate.add_faults("copy:fail,nth=1")
failed = attempt(lambda: x.numpy().tolist())
simulate.clear_faults()
simulate.add_faults("copy:corrupt,nth=1")
seen = x.numpy()
hits = simulate.control().faults()[0]["hits"]
simulate.clear_faults()
report(failed=failed, wrong=np.flatnonzero(seen != np.arange(1024)).tolist(), hits=hits,
       healed=bool((x.numpy() == np.arange(1024)).all()))
"""
    facts, errors = facts_of(tmp_path, code)
    assert facts["failed"][0] != "ok"
    assert "mix-sim: simulated fault: a copy device_to_host failed" in errors
    assert (facts["wrong"], facts["hits"], facts["healed"]) == ([0], 1, True)


@needs_compiler
def test_results_that_are_wrong(tmp_path):
    code = """
x = paddle.full([8, 8], 1.0 / 3.0); exact = (x + x).numpy()
simulate.add_faults("operator:wrong,name=add")
wrong, other = (x + x).numpy(), (x * x).numpy()
simulate.clear_faults()
simulate.add_faults("results:bfloat16")
coarse = (x + x).numpy()
simulate.clear_faults()
bits = coarse.view(np.uint32) & 0xFFFF
report(wrong=np.flatnonzero(wrong != exact).tolist(), other=float(abs(other - 1 / 9).max()),
       low_bits=int(bits.max()), error=float(abs(coarse - exact).max()),
       after=bool(((x + x).numpy() == exact).all()))
"""
    facts, _ = facts_of(tmp_path, code)
    assert facts["wrong"] == [0] and facts["other"] < 1e-7
    assert facts["low_bits"] == 0 and 0 < facts["error"] < 2.0**-8 and facts["after"]


@needs_compiler
def test_an_operator_that_is_missing_falls_back(tmp_path):
    code = """
x = paddle.ones([4, 4])
simulate.add_faults("operator:missing,name=tanh")
y = paddle.tanh(x)
during = simulate.counters()["fallbacks"]
simulate.clear_faults()
simulate.reset_counters()
paddle.tanh(x)
report(place=str(y.place), during=during, after=simulate.counters()["fallbacks"])
"""
    facts, _ = facts_of(tmp_path, code)
    assert facts["place"] == "Place(npu:0)" and facts["during"]["tanh:float32"]["calls"] == 1
    assert facts["after"] == {}


@needs_compiler
def test_a_dropped_event_orders_nothing(tmp_path):
    code = """
control = simulate.control()
before = control.event_orders()
simulate.add_faults("event:drop,nth=1")
during, hits = control.event_orders(), control.faults()[0]["hits"]
report(before=before, during=during, after=control.event_orders(), hits=hits)
"""
    facts, _ = facts_of(tmp_path, code)
    assert (facts["before"], facts["during"], facts["after"], facts["hits"]) == (True, False, True, 1)


@needs_compiler
def test_a_copy_past_the_end_or_the_wrong_way_is_refused(tmp_path):
    code = """
control = simulate.control()
address, (start, size, _, _) = paddle.ones([4]).data_ptr(), control.host_view()
before = simulate.counters()["rejected"]
report(before=before, inside=start <= address < start + size, checks=control.check_copies(),
       versions=control.versions())
"""
    facts, errors = facts_of(tmp_path, code)
    assert facts["before"] == {} and facts["inside"]
    assert facts["checks"] == {
        "to_host_memory": False,
        "from_device_memory": False,
        "past_the_end": False,
        "freed": False,
        "right": True,
    }
    assert "host_to_device" in errors and "wrong destination" in errors
    assert all(version > 0 for version in facts["versions"].values()) and len(facts["versions"]) == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("alloc:fale", "did you mean alloc:fail"),
        ("stream:stall", "needs ms="),
        ("copy:fail,nth=x", "nth must be a whole number, not 'x'"),
        ("copy:fail,above=3", "has no setting 'above'"),
    ],
)
def test_an_unknown_fault_is_one_line(text, said):
    with pytest.raises(BadInputError, match=said):
        simulate_faults.check_faults(text)


def test_an_unknown_fault_ends_a_command_with_code_2(start):
    done = start(
        ["-m", "mix_core.train", "--recipe", "digits", "--device", "npu", "--simulate", "--output_dir", "x"],
        plugins=["mix_device_npu"],
        MIX_SIM_FAULTS="memory:gone",
    )
    assert done.returncode == 2
    assert (
        done.stderr.startswith("error: simulated fault 'memory:gone' is unknown")
        and done.stderr.count("\n") == 1
    )
