"""Tensors in the heap of csrc/ops/heap.h: real processes, each with a Paddle of its own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import pytest

from mix_core.device import native

pytestmark = pytest.mark.skipif(
    native.find_compiler()[0] is None, reason="no C++ compiler on this machine: Paddle's own allocator runs"
)
BEGIN = """
import json, os, sys, threading
import numpy as np
import mix_core.device as device
from mix_core.device import cpu_heap, native_build
runtime = device.activate("cpu").runtime
import paddle
from paddle.base import core
assert native_build.load().library is not None, native_build.load().reason
MiB = 1 << 20
def taken(): return cpu_heap.taken()
def counted(): return core.host_memory_stat_current_value("Allocated", 0)
def resident(): return runtime.memory_stats()["allocated"]
"""
Start = Callable[..., "subprocess.CompletedProcess[str]"]


def answer(start: Start, program: str, **variables: str) -> list[object]:
    done = start(["-c", BEGIN + program], **variables)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(found, list)
    return found


def test_tensors_lie_in_the_heap_and_paddle_counts_them(start: Start) -> None:
    program = """
before = taken(), counted()
x = paddle.ones([8, MiB])
held = taken() - before[0], counted() - before[1]
del x
print(json.dumps([*held, taken() - before[0], counted() - before[1]]))
"""
    size = 8 * 4 << 20
    assert answer(start, program) == [size, size, 0, 0]


def test_paddles_own_allocator_is_there_for_who_asks(start: Start) -> None:
    program = "x = paddle.ones([8, MiB])\nprint(json.dumps([taken(), cpu_heap.release()]))"
    assert answer(start, program, MIX_CPU_HEAP="paddle") == [0, 0]


def test_an_unknown_heap_is_bad_input(start: Start) -> None:
    done = start(["-m", "mix_core.train", "--recipe", "digits", "--device", "cpu"], MIX_CPU_HEAP="glibc")
    said = "MIX_CPU_HEAP is 'glibc', expected mix or paddle; unset it for mix"
    assert done.returncode == 2 and said in done.stderr, done.stderr


def test_a_pattern_of_tensors_that_comes_again_takes_no_more_memory(start: Start) -> None:
    program = """
def step():
    kept = [paddle.full([n, MiB // 4], 1.0) for n in (3, 1, 7, 2, 5)]
    return [one.sum() for one in kept[::2]]
step()
first = resident()
for _ in range(30): step()
print(json.dumps([resident() - first]))
"""
    (grown,) = answer(start, program)
    assert isinstance(grown, int) and grown < 2 << 20


def test_free_pages_go_back_when_the_cache_is_emptied(start: Start) -> None:
    program = """
x = paddle.ones([48, MiB])
before = resident()
del x
kept = resident()
runtime.empty_cache()
y = paddle.ones([4])  # the heap goes on
print(json.dumps([before - kept, kept - resident(), y.numpy().tolist()]))
"""
    at_once, later, ones = answer(start, program)
    assert isinstance(at_once, int) and at_once < 8 << 20
    assert isinstance(later, int) and later > 180 << 20
    assert ones == [1.0, 1.0, 1.0, 1.0]


def test_threads_and_a_fork_while_they_run(start: Start) -> None:
    program = """
wrong = []
going = True
def work(seed):
    n = seed
    while going:
        n = n * 1103515245 % 12345 + 1
        x = paddle.full([n, 17], float(seed))
        if float(x.sum()) != n * 17 * seed: wrong.append(seed)
threads = [threading.Thread(target=work, args=(seed,)) for seed in (3, 5)]
for one in threads: one.start()
children = []
for _ in range(5):
    child = os.fork()
    if child == 0:
        os._exit(0 if float(paddle.ones([300, 300]).sum()) == 90000 else 1)
    children.append(os.waitpid(child, 0)[1])
going = False
for one in threads: one.join()
print(json.dumps([wrong, children]))
"""
    assert answer(start, program) == [[], [0, 0, 0, 0, 0]]


def test_an_array_that_shares_a_tensors_memory_outlives_it(start: Start) -> None:
    program = """
from paddle.utils import dlpack
x = paddle.arange(100000).astype("float32")
shared = np.from_dlpack(x)
left = paddle.ones([MiB])  # still there when the process ends
del x
again = [paddle.zeros([100000]) for _ in range(5)]
print(json.dumps([float(shared.sum(dtype=np.float64))]))
"""
    assert answer(start, program) == [4999950000.0]
