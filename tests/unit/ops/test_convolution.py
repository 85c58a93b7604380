"""conv2d against its formula in float64."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from mix_core import ops
from tests.unit.ops import oracle

GRADIENT_OF_MANY = 1e-5
"""Products that are large enough for tiles keep 16 bits of a factor going back (docs/operators.md)."""


def convolve(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, *, stride: int, padding: tuple
) -> np.ndarray:
    above, below, left, right = padding
    x = np.pad(x, ((0, 0), (0, 0), (above, below), (left, right)))
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], axis=(2, 3))
    return np.einsum("bchwuv,ocuv->bohw", windows[:, :, ::stride, ::stride], weight) + bias[..., None, None]


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [
        ((2, 2, 4, 3), 3, 1, (1, 1, 1, 1)),
        ((1, 2, 5, 4), 3, 1, (0, 0, 0, 0)),
        ((2, 3, 2, 3), 1, 1, (0, 0, 0, 0)),
        ((1, 2, 6, 5), 3, 2, (1, 1, 1, 1)),
        ((1, 2, 4, 4), 3, 2, (0, 1, 0, 1)),
        ((1, 1, 7, 8), 2, 3, (2, 0, 1, 3)),
    ],
)
def test_result_and_gradients(size, kernel, stride, padding) -> None:
    inputs = [oracle.draw(0, *size), oracle.draw(1, 3, size[1], kernel, kernel), oracle.draw(2, 3)]
    keys = {"stride": stride, "padding": padding}
    oracle.check(lambda *given: ops.conv2d(*given, **keys), lambda *given: convolve(*given, **keys), inputs)


@pytest.mark.parametrize(("stride", "padding"), [(1, (1, 1, 1, 1)), (2, (0, 1, 0, 1)), (2, (1, 1, 1, 1))])
@pytest.mark.parametrize("frozen", [(), (0,), (1, 2)])
def test_many_channels(stride, padding, frozen) -> None:
    """Of a size at which devices take another routine, with parts frozen; exact gradients are Paddle's."""
    arrays = [oracle.draw(0, 2, 66, 17, 19), oracle.draw(1, 70, 66, 3, 3) / 25.0, oracle.draw(2, 70)]
    seen = []
    for dtype in ("float32", "float64"):
        tensors = [
            paddle.to_tensor(array.astype(dtype), stop_gradient=place in frozen)
            for place, array in enumerate(arrays)
        ]
        if dtype == "float32":
            out = ops.conv2d(*tensors, stride=stride, padding=padding)
        else:
            out = F.conv2d(*tensors, stride, list(padding))
        out.backward(paddle.to_tensor(oracle.draw(99, *out.shape).astype(dtype)))
        seen.append([out.numpy(), *(None if one.stop_gradient else one.grad.numpy() for one in tensors)])
    for place, (found, exact) in enumerate(zip(*seen, strict=True)):
        if exact is None:
            assert found is None
        else:
            assert oracle.distance(found, exact) < (GRADIENT_OF_MANY if place else oracle.FORWARD), place


def test_a_bias_for_each_image() -> None:
    inputs = [oracle.draw(0, 2, 2, 4, 3), oracle.draw(1, 3, 2, 3, 3), oracle.draw(2, 2, 3)]
    keys = {"stride": 1, "padding": (1, 1, 1, 1)}
    oracle.check(lambda *given: ops.conv2d(*given, **keys), lambda *given: convolve(*given, **keys), inputs)


def test_an_image_with_strides() -> None:
    x_BHWC = oracle.draw(0, 2, 5, 6, 3)
    weight, bias = oracle.draw(1, 4, 3, 3, 3), oracle.draw(2, 4)
    given = paddle.to_tensor(x_BHWC.astype(np.float32)).transpose([0, 3, 1, 2])
    found = ops.conv2d(
        given, paddle.to_tensor(weight.astype(np.float32)), paddle.to_tensor(bias.astype(np.float32))
    )
    expected = convolve(x_BHWC.transpose(0, 3, 1, 2), weight, bias, stride=1, padding=(0, 0, 0, 0))
    assert oracle.distance(found.numpy(), expected) < oracle.FORWARD
