"""qkv and gated_mlp against their formulas in float64."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from mix_core import ops
from tests.unit.ops import oracle

LARGE_GRADIENT = 1e-5
"""Products that are large enough for tiles keep 16 bits of a factor going back (docs/operators.md)."""


def mlp(x, gate, up, down, gate_bias=0.0, up_bias=0.0, down_bias=0.0):
    gated = x @ gate + gate_bias
    return (gated / (1 + np.exp(-gated)) * (x @ up + up_bias)) @ down + down_bias


def of_mlp(x, *parameters):
    return ops.gated_mlp(x, parameters[:3], parameters[3:] or None)


def drawn_mlp(rows: tuple[int, ...], D: int, F: int, out: int) -> list[np.ndarray]:
    sizes = ((*rows, D), (D, F), (D, F), (F, out), (F,), (F,), (out,))
    return [oracle.draw(seed, *size) / size[0] ** (len(size) == 2 and 0.5) for seed, size in enumerate(sizes)]


@pytest.mark.parametrize("rows", [(1,), (3,), (2, 5), (11,)])
@pytest.mark.parametrize("biased", [False, True])
def test_gated_mlp(rows, biased) -> None:
    inputs = drawn_mlp(rows, 5, 7, 3)
    oracle.check(of_mlp, mlp, inputs if biased else inputs[:4])


@pytest.mark.parametrize("rows", [(1,), (9,), (2, 5)])
@pytest.mark.parametrize("biased", [False, True])
def test_qkv(rows, biased) -> None:
    x, widths = oracle.draw(9, *rows, 6), (4, 2, 3)
    weights = [oracle.draw(at, 6, width) for at, width in enumerate(widths)]
    biases = [oracle.draw(5 + at, width) for at, width in enumerate(widths)] if biased else []

    def operator(x, *parameters):
        return paddle.concat(ops.qkv(x, parameters[:3], parameters[3:] or None), axis=-1)

    def formula(x, *parameters):
        biases = parameters[3:] or (0.0, 0.0, 0.0)
        return np.concatenate([x @ w + b for w, b in zip(parameters, biases)], axis=-1)

    oracle.check(operator, formula, [x, *weights, *biases])


def test_gated_mlp_of_many_rows() -> None:
    """Of a size at which devices take another routine; gradients in closed form."""
    inputs = drawn_mlp((300,), 257, 520, 290)
    tensors = [paddle.to_tensor(array.astype(np.float32), stop_gradient=False) for array in inputs]
    out = of_mlp(*tensors)
    assert oracle.distance(out.numpy(), mlp(*inputs)) < oracle.FORWARD
    d_out = oracle.draw(77, *out.shape)
    out.backward(paddle.to_tensor(d_out.astype(np.float32)))
    x, gate, up, down, gate_bias, up_bias, _ = inputs
    gated, raised = x @ gate + gate_bias, x @ up + up_bias
    sigmoid = 1 / (1 + np.exp(-gated))
    dh = d_out @ down.T
    d_gated, d_raised = dh * raised * sigmoid * (1 + gated * (1 - sigmoid)), dh * gated * sigmoid
    h = gated * sigmoid * raised
    of_weights = [x.T @ d_gated, x.T @ d_raised, h.T @ d_out]
    expected = [d_gated @ gate.T + d_raised @ up.T, *of_weights]
    expected += [part.sum(axis=0) for part in (d_gated, d_raised, d_out)]
    for place, (tensor, gradient) in enumerate(zip(tensors, expected)):
        assert oracle.distance(tensor.grad.numpy(), gradient) < LARGE_GRADIENT, f"gradient of input {place}"


def test_gated_mlp_too_large_to_keep_what_lies_before_its_activation() -> None:
    """8,200 rows of 520 are made again going back; halves of them are kept."""
    x, *parameters = (
        paddle.to_tensor(array.astype(np.float32), stop_gradient=False)
        for array in drawn_mlp((8200,), 9, 520, 7)
    )
    d_out = paddle.to_tensor(oracle.draw(78, 8200, 7).astype(np.float32))
    found = []
    for parts in ((x,), x.split(2)):
        out = paddle.concat([of_mlp(part, *parameters) for part in parts])
        out.backward(d_out)
        found.append([out.numpy(), *(tensor.grad.numpy() for tensor in (x, *parameters))])
        for tensor in (x, *parameters):
            tensor.clear_gradient()
    for place, (whole, halves) in enumerate(zip(*found)):
        assert oracle.distance(whole, halves) < oracle.FORWARD, f"output or gradient {place}"


@pytest.mark.parametrize("operator", [ops.qkv, ops.gated_mlp])
def test_frozen_parameters_get_no_gradient(operator) -> None:
    x = paddle.ones([2, 4])
    x.stop_gradient = False
    weights = tuple(paddle.full([4, 4], 0.5) for _ in range(3))
    result = operator(x, weights)
    sum(part.sum() for part in (result if isinstance(result, tuple) else [result])).backward()
    assert x.grad is not None and all(weight.grad is None for weight in weights)
    weights[0].stop_gradient = False
    result = operator(x.detach(), weights)
    sum(part.sum() for part in (result if isinstance(result, tuple) else [result])).backward()
    assert weights[0].grad is not None and weights[1].grad is None


def test_without_gradients_the_result_is_the_same() -> None:
    """Kernels keep less then, and take another road for a few rows."""
    for rows in (1, 8, 40):
        inputs = [paddle.to_tensor(array.astype(np.float32)) for array in drawn_mlp((rows,), 16, 24, 8)]
        with paddle.no_grad():
            alone = of_mlp(*inputs).numpy()
        inputs[1].stop_gradient = False
        assert oracle.distance(alone, of_mlp(*inputs).numpy()) < oracle.FORWARD
