"""The CPU's products of a few rows against float64; those of the head only without gradients.

Shapes: R rows, I input features, O output features.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

from mix_core.device import cpu_kernels, native, native_build

pytestmark = pytest.mark.skipif(
    native.find_compiler()[0] is None, reason="no C++ compiler on this machine: the references run"
)
ISA = os.environ.get("MIX_CPU_ISA")
SIZES = [(1, 1), (7, 5), (8, 16), (33, 129), (1408, 512), (512, 2003), (18_944, 33)]


@pytest.fixture(autouse=True, scope="module")
def built_operators() -> None:
    state = native_build.load()
    assert state.library is not None, state.reason


def assert_close(found: paddle.Tensor, wanted: np.ndarray) -> None:
    assert tuple(found.shape) == wanted.shape
    assert np.linalg.norm(found.numpy() - wanted) / np.linalg.norm(wanted) < 1e-6


def drawn(rows: int, inputs: int, outputs: int) -> list[np.ndarray]:
    rng = np.random.default_rng(rows)
    return [rng.standard_normal(shape).astype(np.float32) for shape in ((rows, inputs), (inputs, outputs))]


@pytest.fixture
def served(monkeypatch) -> list[str]:
    """The operators that ran."""
    names = []
    run = cpu_kernels._run
    monkeypatch.setattr(
        cpu_kernels, "_run", lambda name, *arguments: names.append(name) or run(name, *arguments)
    )
    return names


@pytest.mark.parametrize("rows", [1, 3, 4, 8])
@pytest.mark.parametrize("inputs, outputs", SIZES)
def test_linear_with_and_without_bias(rows, inputs, outputs) -> None:
    x, weight = drawn(rows, inputs, outputs)
    bias = np.arange(outputs, dtype=np.float32)
    exact = x.astype(np.float64) @ weight
    tensors = [paddle.to_tensor(array) for array in (x, weight, bias)]
    with paddle.no_grad():
        assert_close(cpu_kernels.linear(*tensors[:2], None), exact)
        assert_close(cpu_kernels.linear(*tensors), exact + bias)


@pytest.mark.parametrize("rows", [1, 3, 4, 7, 8, 9, 130])
@pytest.mark.parametrize("inputs, outputs", SIZES)
def test_head_logits(rows, inputs, outputs, served) -> None:
    x, weight = drawn(rows, inputs, outputs)
    with paddle.no_grad():
        found = cpu_kernels.head_logits(paddle.to_tensor(x), paddle.to_tensor(weight.T.copy()))
    assert_close(found, x.astype(np.float64) @ weight)
    assert served == ["mix_output_head"]


def test_leading_axes_and_a_view_that_is_not_contiguous() -> None:
    x, weight = drawn(6, 40, 24)
    with paddle.no_grad():
        turned = paddle.to_tensor(weight.T.copy()).t()
        found = cpu_kernels.linear(paddle.to_tensor(x.reshape(2, 3, 40)), turned, None)
    assert_close(found, (x.astype(np.float64) @ weight).reshape(2, 3, 24))


def test_many_rows_of_linear_and_gradients_go_the_other_way(served) -> None:
    x, weight = drawn(9, 40, 24)
    pair = [paddle.to_tensor(array, stop_gradient=False) for array in (x, weight)]
    with paddle.no_grad():
        assert_close(cpu_kernels.linear(*pair, None), x.astype(np.float64) @ weight)
    few, upright = paddle.to_tensor(x[:2]), paddle.to_tensor(weight.T.copy(), stop_gradient=False)
    cpu_kernels.linear(few, pair[1], None).sum().backward()
    cpu_kernels.head_logits(few, upright).sum().backward()
    assert "mix_output_head" not in served
    np.testing.assert_allclose(pair[1].grad.numpy(), upright.grad.numpy().T, rtol=1e-6)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_not_finite_reaches_the_result(wrong) -> None:
    x, weight = drawn(2, 40, 24)
    x[1, 39] = wrong
    with paddle.no_grad():
        for found in (
            cpu_kernels.linear(paddle.to_tensor(x), paddle.to_tensor(weight), None),
            cpu_kernels.head_logits(paddle.to_tensor(x), paddle.to_tensor(weight.T.copy())),
        ):
            assert np.isfinite(found.numpy()[0]).all() and not np.isfinite(found.numpy()[1]).any()


@pytest.mark.skipif(ISA is not None, reason="this is the run on one instruction set")
@pytest.mark.parametrize("isa", ["portable", "avx2"])
def test_every_instruction_set_passes_the_same_tests(isa) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(Path(__file__))]
    environment = {**os.environ, "MIX_CPU_ISA": isa}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:]
