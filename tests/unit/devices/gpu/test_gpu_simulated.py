"""The plugin on a simulated GPU: its own kernels where the chip has the operators, else the host's."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from typing import Any

import pytest

PROGRAM = """
    import json
    import numpy as np
    from mix_core import device
    from mix_core.device import simulate

    active = device.activate("gpu", simulate=True, allow_reexec=True)
    import paddle
    from mix_core import ops

    draw = np.random.default_rng(0)
    def leaf(*shape, dtype="bfloat16"):
        x = paddle.to_tensor(draw.standard_normal(shape).astype(np.float32)).astype(dtype).detach()
        x.stop_gradient = False
        return x

    def wide(x):
        return x.astype("float32").numpy().astype(np.float64)

    hidden, weight, gate, up = leaf(12, 8), leaf(33, 8), leaf(5, 16), leaf(5, 16)
    labels = draw.integers(0, 33, 12)
    labels[[1, 5]] = -100
    loss, count = ops.linear_cross_entropy(hidden, weight, labels)
    loss.backward()
    out = ops.swiglu(gate, up)
    out.backward(paddle.ones_like(out))
    q, norm = leaf(1, 6, 2, 64), leaf(64)
    ops.attention(q, q, q, causal=True)
    ops.rms_norm(q, norm, 1e-6)

    runtime = active.runtime
    state = runtime.get_random_state()
    first = paddle.randn([8]).numpy()
    runtime.set_random_state(state)
    again = paddle.randn([8]).numpy()
    before = runtime.memory_stats()["allocated"]
    kept = paddle.zeros([1 << 18])
    runtime.synchronize()

    logits = wide(hidden) @ wide(weight).T
    rows = labels != -100
    exact = (np.log(np.exp(logits).sum(1)) - logits[np.arange(12), labels * rows])[rows].sum()
    silu = wide(gate) / (1 + np.exp(-wide(gate)))
    print(json.dumps({
        "place": [active.place, runtime.place],
        "fallbacks": simulate.counters()["fallbacks"],
        "loss": [float(loss), float(exact), count],
        "swiglu": float(np.abs(wide(out) - silu * wide(up)).max()),
        "gradients": sorted({f"{x.grad.dtype} {x.grad.place}" for x in (hidden, weight, gate, up)}),
        "drawn": [first.tolist(), again.tolist()],
        "grown": runtime.memory_stats()["allocated"] - before,
        "kernels": {k["op"]: k["kernel"] for k in active.to_json()["kernels"]},
    }))
"""


@pytest.fixture(scope="module")
def answers() -> dict[str, Any]:
    return {}


@pytest.fixture
def answer(answers: dict[str, Any], start: Callable[..., Any]) -> dict[str, Any]:
    """What one process on the simulated device saw; the simulator is built at first use."""
    if not answers:
        done = start(["-c", textwrap.dedent(PROGRAM)], plugins=["../../mix_device_gpu"], timeout_s=600.0)
        assert done.returncode == 0, done.stderr
        answers.update(json.loads(done.stdout.splitlines()[-1]))
    return answers


def test_the_runtime_is_that_of_the_simulated_device(answer: dict[str, Any]):
    assert answer["place"] == ["sim_gpu:0", "sim_gpu:0"]
    assert answer["drawn"][0] == answer["drawn"][1]
    assert answer["grown"] >= 4 << 18


def test_bfloat16_stays_on_the_device(answer: dict[str, Any]):
    assert answer["fallbacks"] == {}
    assert answer["gradients"] == ["paddle.bfloat16 Place(sim_gpu:0)"]


def test_the_results_are_right(answer: dict[str, Any]):
    loss, exact, count = answer["loss"]
    assert count == 10 and abs(loss - exact) < 2e-3 * exact
    assert answer["swiglu"] < 0.05


def test_which_kernel_served(answer: dict[str, Any]):
    assert answer["kernels"] == {
        "linear_cross_entropy": "paddle cross_entropy_with_softmax by blocks",
        "swiglu": "paddle swiglu",
        "attention": "reference",
        "rms_norm": "reference",
    }
