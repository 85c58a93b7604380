"""The plugin on a simulated NPU: its own kernels run on the chip's operators, the host serves the rest."""

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

    active = device.activate("npu", simulate=True, allow_reexec=True)
    import paddle
    from mix_core import ops

    draw = np.random.default_rng(0)
    def leaf(*shape):
        x = paddle.to_tensor(draw.standard_normal(shape).astype(np.float32)).astype("bfloat16").detach()
        x.stop_gradient = False
        return x

    def wide(x):
        return x.astype("float32").numpy().astype(np.float64)

    hidden, weight, gate, up = leaf(12, 8), leaf(33, 8), leaf(5, 16), leaf(5, 16)
    q, norm = leaf(1, 6, 2, 64), leaf(64)
    labels = draw.integers(0, 33, 12)
    labels[[1, 5]] = -100
    before = simulate.counters()["fallbacks"]
    loss, count = ops.linear_cross_entropy(hidden, weight, labels)
    loss.backward()
    out = ops.swiglu(gate, up)
    out.backward(paddle.ones_like(out))
    after = simulate.counters()["fallbacks"]
    ops.attention(q, q, q, causal=True)
    ops.rms_norm(q, norm, 1e-6)

    logits = wide(hidden) @ wide(weight).T
    rows = labels != -100
    exact = (np.log(np.exp(logits).sum(1)) - logits[np.arange(12), labels * rows])[rows].sum()
    silu = wide(gate) / (1 + np.exp(-wide(gate)))
    print(json.dumps({
        "fallbacks": [before, after],
        "loss": [float(loss), float(exact), count],
        "swiglu": float(np.abs(wide(out) - silu * wide(up)).max()),
        "gradients": [str(x.grad.dtype) for x in (hidden, weight, gate, up)],
        "places": [str(x.grad.place) for x in (hidden, weight, gate, up)],
        "kernels": {k["op"]: [k["kernel"], k["reason"]] for k in active.to_json()["kernels"]},
    }))
"""


@pytest.fixture(scope="module")
def answers() -> dict[str, Any]:
    return {}


@pytest.fixture
def answer(answers: dict[str, Any], start: Callable[..., Any]) -> dict[str, Any]:
    """What one process on the simulated device saw; the simulator is built at first use."""
    if not answers:
        done = start(["-c", textwrap.dedent(PROGRAM)], plugins=["../../mix_device_npu"], timeout_s=600.0)
        assert done.returncode == 0, done.stderr
        answers.update(json.loads(done.stdout.splitlines()[-1]))
    return answers


def test_its_bfloat16_kernels_run_without_falling_back_to_the_host(answer: dict[str, Any]):
    before, after = answer["fallbacks"]
    assert before == after == {}
    assert set(answer["gradients"]) == {"paddle.bfloat16"} and set(answer["places"]) == {"Place(npu:0)"}


def test_their_results_are_right(answer: dict[str, Any]):
    loss, exact, count = answer["loss"]
    assert count == 10 and abs(loss - exact) < 1e-4 * exact
    assert answer["swiglu"] < 0.05


def test_what_needs_the_chip_is_served_otherwise(answer: dict[str, Any]):
    kernels = {op: name for op, (name, _) in answer["kernels"].items()}
    assert kernels == {
        "linear_cross_entropy": "npu linear_cross_entropy",
        "swiglu": "npu swiglu",
        "attention": "reference",
        "rms_norm": "reference",
    }
