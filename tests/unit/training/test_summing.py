"""Sums during the last backward pass: what leaves when, and that they are those of the plain optimizer."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import paddle
import pytest

import mix_core.device as device
from mix_core.training import summing
from mix_core.training.optimizer import AdamW
from mix_core.training.sharding import buckets_of
from mix_core.training.summing import SummingAdamW


class TwiceTheSame:
    """Two ranks that have the same gradients: a sum over them is twice what is there."""

    def totals(self, counts):
        return [2 * int(count) for count in counts]


@pytest.fixture(scope="module", autouse=True)
def cpu() -> None:
    device.activate("cpu")


@pytest.fixture
def sent(monkeypatch) -> list[int]:
    """Sizes of messages in the order in which they leave; the sums are there once they are waited for."""
    sizes: list[int] = []

    def all_reduce(values, *, sync_op):
        assert not sync_op
        sizes.append(int(values.size))
        return SimpleNamespace(wait=lambda: values.scale_(2.0))

    monkeypatch.setattr(summing.dist, "all_reduce", all_reduce)
    monkeypatch.setattr(summing, "buckets_of", lambda shapes: buckets_of(shapes, limit_bytes=4 * 72))
    return sizes


class Stack(paddle.nn.Layer):
    """Three maps, of which the middle one may be passed by, as a tower is by text."""

    def __init__(self) -> None:
        super().__init__()
        paddle.seed(3)
        self.first, self.middle, self.last = (paddle.nn.Linear(8, 8) for _ in range(3))

    def loss(self, x, *, whole: bool):
        x = self.first(x)
        return (self.last(self.middle(x) if whole else x) ** 2).sum()


def inputs(seed: int):
    return paddle.to_tensor(np.random.default_rng(seed).standard_normal((4, 8)).astype("float32"))


@pytest.mark.parametrize("whole", [(True, True), (True, False), (False, False)])
def test_sums_are_those_of_all_passes_and_ranks(sent, whole):
    plain, model = Stack(), Stack()
    optimizer, wanted = SummingAdamW(model, TwiceTheSame()), AdamW(plain)
    for step in (1, 2):
        sent.clear()
        for number, has_middle in enumerate(whole):
            plain.loss(inputs(number), whole=has_middle).backward()
            if number == 1:
                optimizer.before_last_pass()
            model.loss(inputs(number), whole=has_middle).backward()
            assert bool(sent) == (number == 1)
        on_the_way = len(sent)
        optimizer.after_passes()
        assert len(sent) == len(optimizer.buckets) == 3
        assert on_the_way == (3 if whole[1] else 1), "the middle one's message and what follows it wait"
        optimizer.sum_over_ranks()
        found, expected = optimizer.summed(), wanted.gradients()
        assert set(found) == {name for name, one in expected.items() if one is not None}
        for name, total in found.items():
            np.testing.assert_allclose(total.numpy(), 2 * expected[name].numpy(), rtol=1e-6)
        optimizer.step(0.01, grad_scale=0.5)
        wanted.step(0.01)
        for one, other in zip(model.parameters(), plain.parameters()):
            np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-5, err_msg=str(step))
        optimizer.clear_grad()
        wanted.clear_grad()


def test_a_gradient_that_comes_after_its_message_is_sent_too(sent):
    """As of a layer that is computed again twice in one pass: two backward passes within the last one."""
    plain, model = Stack(), Stack()
    optimizer, wanted = SummingAdamW(model, TwiceTheSame()), AdamW(plain)
    optimizer.before_last_pass()
    for number in range(2):
        model.loss(inputs(number), whole=True).backward()
        plain.loss(inputs(number), whole=True).backward()
    optimizer.after_passes()
    optimizer.sum_over_ranks()
    for name, total in optimizer.summed().items():
        np.testing.assert_allclose(total.numpy(), 2 * wanted.gradients()[name].numpy(), rtol=1e-6)
