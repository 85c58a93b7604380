"""A product that keeps what its left factor is made of: values and gradients are the same, less is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import pytest
from paddle.base import core

import mix_core.device as device
from mix_core.models.common.layers import LayerNorm, Linear
from mix_core.models.common.recompute import applied
from mix_core.models.diffusion.layers import Conv2D, GroupNorm

MIB = 1 << 20


@pytest.fixture(scope="module", autouse=True)
def on_the_cpu() -> None:
    device.activate("cpu")


def plain(layer: Callable[..., Any], make: Callable[..., Any], x: Any) -> Any:
    return layer(make(x))


def linear_after_norm() -> tuple[Any, Any, Any, tuple[int, ...]]:
    norm, layer = LayerNorm(256, 1e-5), Linear(256, 64, True)
    return norm, norm, layer, (4096, 256)


def convolution_after_norm() -> tuple[Any, Any, Any, tuple[int, ...]]:
    norm, layer = GroupNorm(8, 64, 1e-5), Conv2D(64, 64)
    return norm, norm.with_silu, layer, (1, 64, 128, 128)


@pytest.mark.parametrize("made", [linear_after_norm, convolution_after_norm])
def test_the_same_gradients_with_less_kept(made: Callable[..., Any]) -> None:
    norm, make, layer, shape = made()
    rng = np.random.default_rng(0)
    layer.weight.set_value(rng.standard_normal(layer.weight.shape, dtype=np.float32) * 0.05)
    source = rng.standard_normal(shape, dtype=np.float32)
    parameters = [*norm.parameters(), *layer.parameters()]

    def run(how: Callable[..., Any]) -> tuple[list[np.ndarray], int]:
        given = paddle.to_tensor(source)
        given.stop_gradient = False
        x = given * 1.0
        before = core.host_memory_stat_current_value("Allocated", 0)
        out = how(layer, make, x)
        kept = core.host_memory_stat_current_value("Allocated", 0) - before
        paddle.mean(paddle.square(out)).backward()
        found = [out.numpy(), given.grad.numpy(), *(one.grad.numpy() for one in parameters)]
        for one in parameters:
            one.clear_gradient()
        return found, kept

    found, kept = zip(run(plain), run(applied))
    for first, second in zip(*found):
        np.testing.assert_array_equal(first, second)
    assert kept[0] - kept[1] == pytest.approx(source.nbytes, rel=0.05), "what was normed is not kept"


def test_what_was_kept_goes_while_the_graph_is_there() -> None:
    norm, layer = LayerNorm(256, 1e-5), Linear(256, 256, False)
    x = paddle.ones([4096, 256])
    x.stop_gradient = False
    before = core.host_memory_stat_current_value("Allocated", 0)
    loss = paddle.mean(applied(layer, norm, x * 1.0))
    held = core.host_memory_stat_current_value("Allocated", 0) - before
    loss.backward()
    after = core.host_memory_stat_current_value("Allocated", 0) - before
    assert held > 3 * MIB and after < held - 3 * MIB + x.grad.size * 4, "the graph lives on in `loss`"


def test_without_gradients_nothing_is_arranged() -> None:
    norm, layer = LayerNorm(8, 1e-5), Linear(8, 4, True)
    x = paddle.ones([2, 8])
    with paddle.no_grad():
        np.testing.assert_array_equal(applied(layer, norm, x).numpy(), layer(norm(x)).numpy())
    np.testing.assert_array_equal(applied(layer, None, x).numpy(), layer(x).numpy())
