"""linear_int8 against its formula in float64, and the rounding that makes its weights.

Shapes: R rows, I input features, O output features.
"""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from mix_core import ops
from mix_core.ops import matmul_int8
from mix_core.ops.matmul_int8 import quantized
from tests.unit.ops import oracle

SIZES = [(1, 1), (7, 5), (16, 4), (33, 129), (520, 66), (1408, 512), (4099, 7)]


def drawn(rows: int, inputs: int, outputs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x = oracle.draw(0, rows, inputs).astype(np.float32)
    steps = np.random.default_rng(1).integers(-128, 128, (outputs, inputs)).astype(np.int8)
    return x, steps, np.abs(oracle.draw(2, outputs)).astype(np.float32)


def exact(x: np.ndarray, steps: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return (x.astype(np.float64) @ steps.T.astype(np.float64)) * scale


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8, 9, 130])
@pytest.mark.parametrize("inputs, outputs", SIZES)
def test_with_and_without_bias(rows, inputs, outputs) -> None:
    x, steps, scale = drawn(rows, inputs, outputs)
    bias = np.arange(outputs, dtype=np.float32)
    tensors = [paddle.to_tensor(array) for array in (x, steps, scale)]
    wanted = exact(x, steps, scale)
    assert oracle.distance(ops.linear_int8(*tensors).numpy(), wanted) < 1e-6
    found = ops.linear_int8(*tensors, paddle.to_tensor(bias))
    assert oracle.distance(found.numpy(), wanted + bias) < 1e-6


def test_leading_axes_and_a_matrix_with_strides() -> None:
    x, steps, scale = drawn(6, 40, 24)
    turned = paddle.to_tensor(steps.T.copy()).t()
    found = ops.linear_int8(paddle.to_tensor(x.reshape(2, 3, 40)), turned, paddle.to_tensor(scale))
    assert oracle.distance(found.numpy(), exact(x, steps, scale).reshape(2, 3, 24)) < 1e-6


@pytest.mark.parametrize("rows", [2, 9])
def test_a_row_that_is_not_finite_stays_alone(rows) -> None:
    x, steps, scale = drawn(rows, 40, 24)
    steps[steps == 0] = 1
    x[1, 39] = np.nan
    found = ops.linear_int8(*(paddle.to_tensor(array) for array in (x, steps, scale))).numpy()
    assert np.isfinite(found[0]).all() and np.isnan(found[1]).all()


def test_the_same_bits_every_time() -> None:
    for rows in (3, 40):
        tensors = [paddle.to_tensor(array) for array in drawn(rows, 520, 515)]
        first = ops.linear_int8(*tensors).numpy()
        np.testing.assert_array_equal(ops.linear_int8(*tensors).numpy(), first)


@pytest.mark.parametrize("rows", [1, 9, 130])
@pytest.mark.parametrize("inputs, outputs", SIZES)
def test_the_gradient_of_x(rows, inputs, outputs) -> None:
    x, steps, scale = drawn(rows, inputs, outputs)
    tensors = [paddle.to_tensor(array) for array in (x, steps, scale, np.ones(outputs, np.float32))]
    tensors[0].stop_gradient = False
    d_out = oracle.draw(5, rows, outputs).astype(np.float32)
    ops.linear_int8(*tensors).backward(paddle.to_tensor(d_out))
    wanted = (d_out.astype(np.float64) * scale) @ steps.astype(np.float64)
    assert oracle.distance(tensors[0].grad.numpy(), wanted) < 1e-5
    assert all(tensor.grad is None for tensor in tensors[1:])


@pytest.mark.parametrize("limit", [1, 40 * 7, 1 << 24])
def test_the_references_gradient_in_one_or_many_blocks(limit, monkeypatch) -> None:
    monkeypatch.setattr(matmul_int8, "MAX_WIDENED", limit)
    _, steps, scale = drawn(3, 40, 24)
    grad = oracle.draw(5, 2, 3, 24)
    found = matmul_int8._back(*(paddle.to_tensor(array) for array in (grad.astype(np.float32), steps, scale)))
    assert oracle.distance(found.numpy(), (grad * scale) @ steps.astype(np.float64)) < 1e-6


@pytest.mark.parametrize("limit", [1, 40 * 7, 1 << 24])
def test_the_reference_in_one_or_many_blocks(limit, monkeypatch) -> None:
    monkeypatch.setattr(matmul_int8, "MAX_WIDENED", limit)
    x, steps, scale = drawn(3, 40, 24)
    found = matmul_int8._reference(*(paddle.to_tensor(array) for array in (x, steps, scale)), None)
    assert oracle.distance(found.numpy(), exact(x, steps, scale)) < 1e-6


def test_narrow_activations_keep_their_dtype() -> None:
    x, steps, scale = (paddle.to_tensor(array) for array in drawn(3, 40, 24))
    narrow = x.astype("bfloat16")
    found = matmul_int8._reference(narrow, steps, scale, paddle.zeros([24], "bfloat16"))
    assert found.dtype == paddle.bfloat16
    wanted = exact(narrow.astype("float32").numpy(), steps.numpy(), scale.numpy())
    assert oracle.distance(found.astype("float32").numpy(), wanted) < 2e-2


def test_rounding_is_within_half_a_step_of_each_row() -> None:
    weight = np.random.default_rng(3).standard_normal((33, 129)).astype(np.float32)
    weight *= np.logspace(-6, 3, 33, dtype=np.float32)[:, None]
    steps, scale = quantized(weight)
    assert (steps.dtype, scale.dtype) == (np.int8, np.float32)
    assert np.abs(weight - steps * scale[:, None].astype(np.float64)).max(axis=1) == pytest.approx(
        scale / 2, rel=0.1
    )
    assert (np.abs(steps).max(axis=1) == 127).all(), "a row uses all of its range"


def test_a_row_of_zeros_stays_zeros() -> None:
    steps, scale = quantized(np.zeros((2, 5), np.float32))
    assert not steps.any() and not scale.any()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(wrong) -> None:
    weight = np.ones((4, 5), np.float32)
    weight[2, 3] = wrong
    with pytest.raises(ValueError, match="row 2 holds numbers that are not finite"):
        quantized(weight)
