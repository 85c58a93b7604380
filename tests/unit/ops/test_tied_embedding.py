"""A weight that is embedding and output head: one gradient, the sum of both uses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import Tensor

from mix_core.models.common.layers import Embedding
from mix_core.ops.tied_embedding import tied_embedding
from tests.unit.ops import oracle

V, D = 13, 5
IDS = np.array([3, 0, 12, 3, 3, 7])
"""One token three times: its rows add up."""


def plain(ids: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return F.embedding(ids, weight), weight


def rows(x: Tensor, head: Tensor) -> Tensor:
    return paddle.tanh(x).sum()


def head(x: Tensor, head: Tensor) -> Tensor:
    return (paddle.matmul(paddle.ones([2, D]), head, transpose_y=True) ** 2).sum()


def both(x: Tensor, head: Tensor) -> Tensor:
    return paddle.tanh(paddle.matmul(paddle.tanh(x), head, transpose_y=True)).sum()


def gradient(embed: Callable[..., tuple[Tensor, Tensor]], loss: Callable[..., Tensor]) -> np.ndarray:
    weight = paddle.to_tensor(oracle.draw(0, V, D).astype("float32"), stop_gradient=False)
    loss(*embed(paddle.to_tensor(IDS), weight)).backward()
    return weight.grad.numpy()


@pytest.mark.parametrize("loss", [rows, head, both])
def test_the_gradient_is_that_of_both_uses(loss: Callable[..., Tensor]) -> None:
    assert oracle.distance(gradient(tied_embedding, loss), gradient(plain, loss)) < 1e-6


def test_paddle_grad_sees_it_and_no_weight_is_copied() -> None:
    weight = paddle.to_tensor(oracle.draw(0, V, D).astype("float32"), stop_gradient=False)
    x, head_VD = tied_embedding(paddle.to_tensor(IDS), weight)
    assert head_VD.data_ptr() == weight.data_ptr()
    (found,) = paddle.grad(both(x, head_VD), [weight])
    assert weight.grad is None
    assert oracle.distance(found.numpy(), gradient(plain, both)) < 1e-6


def test_a_layer_gives_its_head_once_for_each_pass() -> None:
    layer = Embedding(V, D)
    layer.is_head = True
    layer.train()
    ids = paddle.to_tensor(IDS)
    layer(ids)
    assert layer.as_head() is not layer.weight
    assert layer.as_head() is layer.weight
    layer(ids)
    layer.eval()
    layer(ids)
    assert layer.as_head() is layer.weight, "that of the training pass has gone"
    layer.train()
    layer.weight.stop_gradient = True
    layer(ids)
    assert layer.as_head() is layer.weight
