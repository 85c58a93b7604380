"""adamw and sampling against their definitions."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from mix_core import ops
from mix_core.ops.philox import philox4x32
from tests.unit.ops import oracle

RATES = dict(learning_rate=0.01, beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.1)


def _expected(parameter, gradients, grad_scale, *, learning_rate, beta1, beta2, epsilon, weight_decay):
    mean, square = np.zeros_like(parameter), np.zeros_like(parameter)
    for step, gradient in enumerate(gradients, start=1):
        gradient = gradient * grad_scale
        mean = beta1 * mean + (1 - beta1) * gradient
        square = beta2 * square + (1 - beta2) * gradient**2
        parameter = parameter * (1 - learning_rate * weight_decay)
        root = np.sqrt(square / (1 - beta2**step)) + epsilon
        parameter = parameter - learning_rate * mean / (1 - beta1**step) / root
    return parameter, mean, square


@pytest.mark.parametrize("grad_scale", [1.0, 0.25])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adamw(grad_scale, weight_decay) -> None:
    rates = RATES | dict(weight_decay=weight_decay)
    shapes = [(3, 4), (5,), (1,)]
    starts = [oracle.draw(i, *shape) for i, shape in enumerate(shapes)]
    gradients = [
        [oracle.draw(10 * step + i, *shape) for i, shape in enumerate(shapes)] for step in range(1, 6)
    ]
    parameters = [paddle.to_tensor(x.astype("float32")) for x in starts]
    means, squares = ([paddle.zeros(list(shape)) for shape in shapes] for _ in range(2))
    for step, of_step in enumerate(gradients, start=1):
        tensors = [paddle.to_tensor(x.astype("float32")) for x in of_step]
        ops.adamw(parameters, tensors, means, squares, step=step, grad_scale=grad_scale, **rates)
    for i, start in enumerate(starts):
        expected = _expected(start, [of_step[i] for of_step in gradients], grad_scale, **rates)
        for found, wanted in zip((parameters[i], means[i], squares[i]), expected):
            assert oracle.distance(found.numpy(), wanted) < oracle.FORWARD


def test_adamw_resumes_bit_for_bit() -> None:
    def run(parameter, mean, square, steps) -> list[np.ndarray]:
        tensors = [paddle.to_tensor(x) for x in (parameter, mean, square)]
        for step in steps:
            gradient = paddle.to_tensor(oracle.draw(step, 4).astype("float32"))
            ops.adamw(
                [tensors[0]], [gradient], [tensors[1]], [tensors[2]], step=step, grad_scale=0.5, **RATES
            )
        return [tensor.numpy() for tensor in tensors]

    start = [oracle.draw(0, 4).astype("float32"), np.zeros(4, "f4"), np.zeros(4, "f4")]
    whole = run(*start, range(1, 7))
    for found, expected in zip(run(*run(*start, range(1, 4)), range(4, 7)), whole):
        np.testing.assert_array_equal(found, expected)


def test_adamw_updates_narrow_parameters_in_float32() -> None:
    start = oracle.draw(0, 6).astype("float32")
    parameter = paddle.to_tensor(start).astype("bfloat16")
    wide = parameter.astype("float32")
    gradient = paddle.to_tensor(oracle.draw(1, 6).astype("float32"))
    moments = [[paddle.zeros([6])] for _ in range(4)]
    ops.adamw([parameter], [gradient.astype("bfloat16")], moments[0], moments[1], step=1, **RATES)
    rounded = gradient.astype("bfloat16").astype("float32")
    ops.adamw([wide], [rounded], moments[2], moments[3], step=1, **RATES)
    expected = wide.astype("bfloat16").astype("float32").numpy()
    np.testing.assert_array_equal(parameter.astype("float32").numpy(), expected)


def test_adamw_updates_the_numbers_that_a_view_shows() -> None:
    """A transposed parameter and every second column of one: neither lies in order in memory."""
    whole = oracle.draw(0, 3, 8).astype("float32")
    for place in (lambda tensor: tensor.transpose([1, 0]), lambda tensor: tensor[:, ::2]):
        base, moments = paddle.to_tensor(whole), [paddle.zeros([3, 8]) for _ in range(2)]
        view, mean, square = (place(tensor) for tensor in (base, *moments))
        assert not view.is_contiguous()
        gradient = oracle.draw(1, *view.shape)
        start = view.numpy().astype("float64")
        ops.adamw([view], [paddle.to_tensor(gradient.astype("float32"))], [mean], [square], step=1, **RATES)
        expected = _expected(start, [gradient], 1.0, **RATES)
        for tensor, wanted in zip((base, *moments), expected):
            assert oracle.distance(place(tensor).numpy(), wanted) < oracle.FORWARD
        if view.shape == [3, 4]:
            np.testing.assert_array_equal(base.numpy()[:, 1::2], whole[:, 1::2])


LOGITS = np.log(np.array([[0.5, 0.05, 0.3, 0.15], [0.1, 0.2, 0.3, 0.4]], np.float32))


def _sample(uniform: float, **options) -> list[int]:
    numbers = np.array([uniform, uniform])
    return ops.sampling(paddle.to_tensor(LOGITS), uniform_B=numbers, **options).numpy().tolist()


def test_temperature_zero_takes_the_most_likely() -> None:
    assert ops.sampling(paddle.to_tensor(LOGITS), temperature=0.0).numpy().tolist() == [0, 3]


@pytest.mark.parametrize(
    "uniform,expected", [(0.0, [0, 3]), (0.45, [0, 2]), (0.6, [2, 2]), (0.85, [3, 1]), (0.99, [1, 0])]
)
def test_draws_invert_the_cumulative_distribution(uniform, expected) -> None:
    assert _sample(uniform, temperature=1.0) == expected


def test_top_k_and_top_p_cut_the_tail() -> None:
    assert _sample(0.999, temperature=1.0, top_k=2) == [2, 2]
    assert _sample(0.999, temperature=1.0, top_k=1) == [0, 3]
    assert _sample(0.999, temperature=1.0, top_p=0.75) == [2, 1]
    assert _sample(0.999, temperature=1.0, top_p=0.01) == [0, 3]


def test_temperature_flattens() -> None:
    assert _sample(0.7, temperature=100.0) == [3, 1]


def test_draws_follow_the_distribution() -> None:
    logits = paddle.to_tensor(np.repeat(LOGITS[:1], 4000, 0))
    uniform = np.random.default_rng(0).random(4000)
    ids = ops.sampling(logits, temperature=1.0, uniform_B=uniform).numpy()
    np.testing.assert_allclose(np.bincount(ids, minlength=4) / 4000, [0.5, 0.05, 0.3, 0.15], atol=0.03)


def test_sampling_needs_a_number_for_each_row() -> None:
    with pytest.raises(ValueError, match="2 rows"):
        ops.sampling(paddle.to_tensor(LOGITS), temperature=1.0, uniform_B=np.zeros(3))


def test_philox_gives_the_published_words() -> None:
    # known answers of the Random123 distribution (kat_vectors, philox4x32 10)
    ones = np.full(4, 0xFFFFFFFF, np.uint64)
    pi = np.array([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0], np.uint64)
    cases = {
        (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8): (np.zeros(4, np.uint64), np.zeros(2, np.uint64)),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD): (ones, ones[:2]),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1): (pi[:4], pi[4:]),
    }
    for expected, (counter, key) in cases.items():
        assert tuple(philox4x32(counter, key).tolist()) == expected
