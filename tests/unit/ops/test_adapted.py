"""adapted_linear and adapted_mlp against their formulas in float64.

Shapes: I input features, O output features, R rank, D model dim, F feed-forward width.
"""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from mix_core import ops
from mix_core.ops.low_rank import LowRank
from tests.unit.ops import oracle

SCALE = 0.75
LARGE_GRADIENT = 1e-5
"""Products that are large enough for tiles keep 16 bits of a factor going back (docs/operators.md)."""


def drawn(rows: tuple[int, ...], inputs: int, outputs: tuple[int, ...], ranks: tuple[int, ...], biased: bool):
    """x, then weights, biases and the pairs of adapters; a rank of 0: none."""
    arrays = [oracle.draw(0, *rows, inputs)]
    arrays += [oracle.draw(1 + at, inputs, width) / inputs**0.5 for at, width in enumerate(outputs)]
    arrays += [oracle.draw(11 + at, width) for at, width in enumerate(outputs)] if biased else []
    for at, (width, rank) in enumerate(zip(outputs, ranks)):
        if rank:
            arrays += [oracle.draw(21 + at, inputs, rank) / inputs**0.5, oracle.draw(31 + at, rank, width)]
    return [array.astype(np.float32).astype(np.float64) for array in arrays]


def parted(parameters, count: int, ranks: tuple[int, ...], biased: bool):
    """(weights, biases or None, pairs or None for each map)."""
    ends = 2 * count if biased else count
    pairs = iter(zip(parameters[ends::2], parameters[ends + 1 :: 2]))
    adapters = [next(pairs) if rank else None for rank in ranks]
    return parameters[:count], parameters[count:ends] or None, adapters


def linear_operator(count, ranks, biased):
    def operator(x, *parameters):
        weights, biases, pairs = parted(parameters, count, ranks, biased)
        adapters = [pair and LowRank(*pair, SCALE) for pair in pairs]
        return paddle.concat(ops.adapted_linear(x, weights, biases, adapters), axis=-1)

    return operator


def linear_formula(count, ranks, biased):
    def formula(x, *parameters):
        weights, biases, pairs = parted(parameters, count, ranks, biased)
        full = [weight + (SCALE * pair[0] @ pair[1] if pair else 0.0) for weight, pair in zip(weights, pairs)]
        return np.concatenate([x @ one + bias for one, bias in zip(full, biases or [0.0] * count)], axis=-1)

    return formula


@pytest.mark.parametrize("rows", [(1,), (11,), (2, 6)])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(
    ("outputs", "ranks"), [((5,), (3,)), ((4, 3), (1, 9)), ((4, 2, 3), (2, 0, 5)), ((2, 3, 2), (0, 0, 1))]
)
def test_adapted_linear(rows, biased, outputs, ranks) -> None:
    inputs = drawn(rows, 6, outputs, ranks, biased)
    how = (len(outputs), ranks, biased)
    oracle.check(linear_operator(*how), linear_formula(*how), inputs)


@pytest.mark.parametrize("rows", [40, 310])
def test_adapted_linear_of_large_maps(rows) -> None:
    """With tiles; of 40 rows through the adapters, of 310 by the merged matrices. Gradients by hand."""
    ranks, outputs = (16, 0, 9), (258, 67, 130)
    inputs = drawn((rows,), 257, outputs, ranks, True)
    tensors = [paddle.to_tensor(array.astype(np.float32), stop_gradient=False) for array in inputs]
    out = linear_operator(3, ranks, True)(*tensors)
    assert oracle.distance(out.numpy(), linear_formula(3, ranks, True)(*inputs)) < oracle.FORWARD
    d_out = oracle.draw(77, *out.shape)
    out.backward(paddle.to_tensor(d_out.astype(np.float32)))
    x, weights, pairs = inputs[0], inputs[1:4], [inputs[7:9], None, inputs[9:11]]
    parts = np.split(d_out, np.cumsum(outputs)[:-1], axis=1)
    full = [weight + (SCALE * pair[0] @ pair[1] if pair else 0.0) for weight, pair in zip(weights, pairs)]
    expected = [sum(part @ one.T for part, one in zip(parts, full)), *(x.T @ part for part in parts)]
    expected += [part.sum(axis=0) for part in parts]
    for part, pair in zip(parts, pairs):
        if pair:
            expected += [SCALE * x.T @ (part @ pair[1].T), SCALE * (x @ pair[0]).T @ part]
    for place, (tensor, gradient) in enumerate(zip(tensors, expected, strict=True)):
        assert oracle.distance(tensor.grad.numpy(), gradient) < LARGE_GRADIENT, f"gradient of input {place}"


def mlp_inputs(rows: tuple[int, ...], D: int, F: int, ranks: tuple[int, int, int], biased: bool):
    gate_and_up = drawn(rows, D, (F, F), ranks[:2], biased)
    down = drawn(rows, F, (D,), ranks[2:], biased)[1:]
    matrices, biases = [*gate_and_up[1:3], down[0]], [*gate_and_up[3:5], down[1]] if biased else []
    used = (5, 2) if biased else (3, 1)
    return [gate_and_up[0], *matrices, *biases, *gate_and_up[used[0] :], *down[used[1] :]]


def mlp_operator(ranks, biased):
    def operator(x, *parameters):
        weights, biases, pairs = parted(parameters, 3, ranks, biased)
        return ops.adapted_mlp(x, weights, biases, [pair and LowRank(*pair, SCALE) for pair in pairs])

    return operator


def mlp_formula(ranks, biased):
    def formula(x, *parameters):
        weights, biases, pairs = parted(parameters, 3, ranks, biased)
        full = [weight + (SCALE * pair[0] @ pair[1] if pair else 0.0) for weight, pair in zip(weights, pairs)]
        of_gate, of_up, of_down = biases or (0.0, 0.0, 0.0)
        gated = x @ full[0] + of_gate
        return (gated / (1 + np.exp(-gated)) * (x @ full[1] + of_up)) @ full[2] + of_down

    return formula


@pytest.mark.parametrize("rows", [(1,), (11,), (2, 6)])
@pytest.mark.parametrize(("biased", "ranks"), [(False, (2, 3, 1)), (True, (9, 0, 2)), (False, (0, 0, 4))])
def test_adapted_mlp(rows, biased, ranks) -> None:
    inputs = mlp_inputs(rows, 5, 7, ranks, biased)
    oracle.check(mlp_operator(ranks, biased), mlp_formula(ranks, biased), inputs)


def test_adapted_mlp_of_many_rows() -> None:
    """The gradients against those of the parts, which the test above holds to the formula."""
    ranks = (16, 16, 16)
    inputs = mlp_inputs((310,), 130, 258, ranks, False)

    def by_parts(x, *parameters):
        weights, _, pairs = parted(parameters, 3, ranks, False)
        full = [weight + SCALE * paddle.matmul(*pair) for weight, pair in zip(weights, pairs)]
        return ops.linear(ops.swiglu(ops.linear(x, full[0]), ops.linear(x, full[1])), full[2])

    d_out = paddle.to_tensor(oracle.draw(77, 310, 130).astype(np.float32))
    found = []
    for operator in (mlp_operator(ranks, False), by_parts):
        tensors = [paddle.to_tensor(array.astype(np.float32), stop_gradient=False) for array in inputs]
        out = operator(*tensors)
        assert oracle.distance(out.numpy(), mlp_formula(ranks, False)(*inputs)) < oracle.FORWARD
        out.backward(d_out)
        found.append([tensor.grad.numpy() for tensor in tensors])
    for place, (ours, theirs) in enumerate(zip(*found)):
        assert oracle.distance(ours, theirs) < LARGE_GRADIENT, f"gradient of input {place}"


def test_frozen_weights_get_no_gradient_and_adapters_alone_need_none_of_x() -> None:
    inputs = [paddle.to_tensor(array.astype(np.float32)) for array in drawn((9,), 6, (4, 3), (2, 2), False)]
    for tensor in inputs[3:]:
        tensor.stop_gradient = False
    linear_operator(2, (2, 2), False)(*inputs).sum().backward()
    assert all(tensor.grad is None for tensor in inputs[:3])
    assert all(tensor.grad is not None for tensor in inputs[3:])


def test_the_same_bits_every_time_and_without_gradients() -> None:
    for rows in (3, 40, 310):
        inputs = drawn((rows,), 130, (66, 65), (4, 16), True)
        tensors = [paddle.to_tensor(array.astype(np.float32)) for array in inputs]
        with paddle.no_grad():
            alone = linear_operator(2, (4, 16), True)(*tensors).numpy()
        tensors[-1].stop_gradient = False
        for _ in range(2):
            np.testing.assert_array_equal(linear_operator(2, (4, 16), True)(*tensors).numpy(), alone)
