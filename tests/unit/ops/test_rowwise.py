"""Norms, rotary, activations and the linear map against their formulas in float64."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

from mix_core import ops
from tests.unit.ops import oracle

EPS = 1e-6


def _root_mean_square(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + EPS) * w


@pytest.mark.parametrize("shape", [(5, 8), (2, 3, 6), (1, 4)])
def test_rms_norm(shape) -> None:
    oracle.check(
        lambda x, w: ops.rms_norm(x, w, EPS),
        _root_mean_square,
        [oracle.draw(0, *shape), oracle.draw(1, shape[-1])],
    )


def test_rms_norm_keeps_its_precision_far_from_one() -> None:
    x = oracle.draw(0, 4, 64) * np.array([1e-4, 1.0, 1e3, 1e6])[:, None]
    found = ops.rms_norm(paddle.to_tensor(x.astype("float32")), paddle.ones([64]), EPS).numpy()
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + EPS)
    for row in range(4):
        assert oracle.distance(found[row], expected[row]) < oracle.FORWARD


def test_add_rms_norm() -> None:
    inputs = [oracle.draw(0, 2, 3, 6), oracle.draw(1, 2, 3, 6), oracle.draw(2, 6)]
    oracle.check(
        lambda x, branch, w: paddle.stack(ops.add_rms_norm(x, branch, w, EPS)),
        lambda x, branch, w: np.stack([x + branch, _root_mean_square(x + branch, w)]),
        inputs,
    )


def test_add_rms_norm_is_the_addition_and_the_norm_bit_for_bit() -> None:
    x, branch, weight = (tensor(oracle.draw(i, 5, 8)) for i in range(3))
    total, normed = ops.add_rms_norm(x, branch, weight[0], EPS)
    np.testing.assert_array_equal(total.numpy(), (x + branch).numpy())
    np.testing.assert_array_equal(normed.numpy(), ops.rms_norm(x + branch, weight[0], EPS).numpy())


@pytest.mark.parametrize(
    "x, branch, weight", [("float64", "float32", "float32"), ("float32", "float64", "float64")]
)
def test_add_rms_norm_keeps_the_type_of_x_in_the_sum_and_of_the_weight_in_the_norm(x, branch, weight) -> None:
    total, normed = ops.add_rms_norm(
        paddle.full([2, 4], 3.0, x), paddle.full([2, 4], 1.0, branch), paddle.full([4], 2.0, weight), EPS
    )
    assert (total.dtype, normed.dtype) == (getattr(paddle, x), getattr(paddle, weight))
    np.testing.assert_array_equal(total.numpy(), np.full((2, 4), 4.0))
    np.testing.assert_allclose(normed.numpy(), np.full((2, 4), 2.0), rtol=1e-6)


def _normalise(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + EPS)


def test_layer_norm() -> None:
    oracle.check(
        lambda x, w, b: ops.layer_norm(x, w, b, EPS),
        lambda x, w, b: _normalise(x, (-1,)) * w + b,
        [oracle.draw(0, 2, 3, 8), oracle.draw(1, 8), oracle.draw(2, 8)],
    )


def test_layer_norm_without_weight_and_bias() -> None:
    x = oracle.draw(0, 3, 8)
    found = ops.layer_norm(paddle.to_tensor(x.astype("float32")), None, None, EPS).numpy()
    assert oracle.distance(found, _normalise(x, (-1,))) < oracle.FORWARD


@pytest.mark.parametrize("silu", [False, True])
def test_group_norm(silu: bool) -> None:
    def formula(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
        grouped = _normalise(x.reshape(2, 3, 2, 5), (2, 3)).reshape(x.shape)
        out = grouped * w[None, :, None] + b[None, :, None]
        return out / (1.0 + np.exp(-out)) if silu else out

    oracle.check(
        lambda x, w, b: ops.group_norm(x, 3, w, b, EPS, silu=silu),
        formula,
        [oracle.draw(0, 2, 6, 5), oracle.draw(1, 6), oracle.draw(2, 6)],
    )


def _turn(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    half = x.shape[-1] // 2
    return x * cos + np.concatenate([-x[..., half:], x[..., :half]], -1) * sin


@pytest.mark.parametrize("lead", [(7,), (2, 3)])
@pytest.mark.parametrize("head_dim", [2, 6, 10])
def test_rotary(lead, head_dim) -> None:
    positions = np.arange(math.prod(lead)).reshape(lead)
    cos, sin = ops.rotary_tables_1d(positions, head_dim, 100.0)
    tables = [paddle.to_tensor(table[..., None, :]) for table in (cos, sin)]
    wide = [table[..., None, :].astype(np.float64) for table in (cos, sin)]
    q, k = oracle.draw(0, *lead, 4, head_dim), oracle.draw(1, *lead, 2, head_dim)
    oracle.check(lambda q: ops.rotary(q, tensor(k), *tables)[0], lambda q: _turn(q, *wide), [q])
    oracle.check(lambda k: ops.rotary(tensor(q), k, *tables)[1], lambda k: _turn(k, *wide), [k])


def tensor(array: np.ndarray) -> paddle.Tensor:
    return paddle.to_tensor(array.astype(np.float32))


def test_tables_of_one_axis_are_the_angles() -> None:
    cos, sin = ops.rotary_tables_1d(np.array([0, 3]), 4, 100.0)
    angles = 3 * np.array([1.0, 0.1, 1.0, 0.1])
    np.testing.assert_allclose(cos, [np.ones(4), np.cos(angles)], rtol=1e-6)
    np.testing.assert_allclose(sin, [np.zeros(4), np.sin(angles)], rtol=1e-6)


def test_tables_of_two_axes_turn_half_with_the_row_and_half_with_the_column() -> None:
    cos, sin = ops.rotary_tables_2d(np.array([[2, 5]]), 8, 100.0)
    angles = np.array([2, 0.2, 5, 0.5] * 2)
    np.testing.assert_allclose(cos[0], np.cos(angles), rtol=1e-6)
    np.testing.assert_allclose(sin[0], np.sin(angles), rtol=1e-6)


def test_tables_of_three_axes() -> None:
    positions = np.array([[[4]], [[5]], [[6]]])
    cos, _ = ops.rotary_tables_mrope(positions, 8, 16.0, (1, 2, 1))
    angles = np.array([4, 5 / 2, 5 / 4, 6 / 8] * 2)
    np.testing.assert_allclose(cos[0, 0], np.cos(angles), rtol=1e-6)
    same = ops.rotary_tables_mrope(np.full((3, 1, 2), 9), 8, 16.0, (1, 2, 1))
    np.testing.assert_array_equal(same, ops.rotary_tables_1d(np.full((1, 2), 9), 8, 16.0))
    with pytest.raises(ValueError, match="add up to half the head dim, 4"):
        ops.rotary_tables_mrope(positions, 8, 16.0, (1, 1, 1))


def test_swiglu() -> None:
    oracle.check(
        ops.swiglu,
        lambda gate, up: gate / (1 + np.exp(-gate)) * up,
        [oracle.draw(0, 3, 7) * 3, oracle.draw(1, 3, 7)],
    )


def test_swiglu_saturates_without_overflow() -> None:
    gate = paddle.to_tensor(np.array([-200.0, -30.0, 30.0, 200.0], np.float32), stop_gradient=False)
    out = ops.swiglu(gate, paddle.ones([4]))
    out.sum().backward()
    np.testing.assert_allclose(out.numpy(), [0, 0, 30, 200], atol=1e-5)
    np.testing.assert_allclose(gate.grad.numpy(), [0, 0, 1, 1], atol=1e-5)


_erf = np.vectorize(math.erf)
GELU = {
    "erf": lambda x: x * 0.5 * (1 + _erf(x / math.sqrt(2))),
    "tanh": lambda x: x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "quick": lambda x: x / (1 + np.exp(-1.702 * x)),
}


@pytest.mark.parametrize("form", GELU)
def test_gelu(form) -> None:
    oracle.check(lambda x: ops.gelu(x, form), GELU[form], [oracle.draw(0, 4, 6) * 2])


def test_gelu_of_an_unknown_form() -> None:
    with pytest.raises(ValueError, match="'relu'"):
        ops.gelu(paddle.ones([1]), "relu")


@pytest.mark.parametrize("shape", [(2,), (5, 14), (2, 3, 8), (2, 3, 4, 2)])
def test_geglu(shape) -> None:
    def formula(x: np.ndarray) -> np.ndarray:
        value, gate = np.split(x, 2, axis=-1)
        return value * GELU["erf"](gate)

    oracle.check(ops.geglu, formula, [oracle.draw(0, *shape) * 2])


def test_geglu_leaves_its_input_and_gradient_as_they_were() -> None:
    x, grad = (tensor(oracle.draw(i, 3, width)) for i, width in enumerate((8, 4)))
    x.stop_gradient = False
    before = x.numpy(), grad.numpy()
    ops.geglu(x).backward(grad)
    np.testing.assert_array_equal(x.numpy(), before[0])
    np.testing.assert_array_equal(grad.numpy(), before[1])


@pytest.mark.parametrize("shape", [(5, 4), (2, 3, 4)])
def test_linear(shape) -> None:
    inputs = [oracle.draw(0, *shape), oracle.draw(1, 4, 6), oracle.draw(2, 6)]
    oracle.check(ops.linear, lambda x, w, b: x @ w + b, inputs)
    oracle.check(ops.linear, lambda x, w: x @ w, inputs[:2])


def test_linear_gives_frozen_inputs_no_gradient() -> None:
    x, weight, bias = tensor(oracle.draw(0, 3, 4)), tensor(oracle.draw(1, 4, 5)), tensor(oracle.draw(2, 5))
    bias.stop_gradient = False
    ops.linear(x, weight, bias).sum().backward()
    assert x.grad is None and weight.grad is None
    np.testing.assert_allclose(bias.grad.numpy(), np.full(5, 3.0))


@pytest.mark.parametrize(
    "operator",
    [
        lambda x: ops.rms_norm(x, paddle.ones([8], x.dtype), EPS),
        lambda x: ops.swiglu(x, x),
        lambda x: ops.gelu(x, "quick"),
        lambda x: ops.geglu(x),
        lambda x: ops.layer_norm(x, None, None, EPS),
        lambda x: ops.attention(*[x.reshape([1, 4, 2, 4])] * 3, causal=True),
        lambda x: ops.rotary(*[x.reshape([4, 2, 4])] * 2, *[paddle.full([4, 1, 4], 0.6)] * 2)[0],
    ],
    ids=["rms_norm", "swiglu", "gelu", "geglu", "layer_norm", "attention", "rotary"],
)
def test_narrow_types_are_computed_in_float32_and_rounded_once(operator) -> None:
    x = paddle.to_tensor(oracle.draw(0, 4, 8).astype("float32")).astype("bfloat16")
    found = operator(x)
    assert found.dtype == paddle.bfloat16
    expected = operator(x.astype("float32")).astype("bfloat16").astype("float32")
    np.testing.assert_array_equal(found.astype("float32").numpy(), expected.numpy())
