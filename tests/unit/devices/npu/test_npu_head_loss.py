"""The chip's form of the head's cross entropy against core's reference, in float32 on this machine."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from mix_device_npu.operators import operator_support

from mix_core import ops
from mix_device_npu import head_loss

T, D, V = 12, 8, 33


def inputs(seed: int = 0, scale: float = 1.0):
    draw = np.random.default_rng(seed)
    hidden, weight = (
        paddle.to_tensor((draw.standard_normal(shape) * scale).astype(np.float32), stop_gradient=False)
        for shape in ((T, D), (V, D))
    )
    labels = draw.integers(0, V, T)
    labels[[1, 5]] = -100
    return hidden, weight, labels


def both(hidden, weight, labels, **arguments):
    """(loss, count, gradients) of the chip's form and of the reference."""
    answers = []
    for fn in (head_loss.linear_cross_entropy, ops.linear_cross_entropy):
        loss, count = fn(hidden, weight, labels, ignore_index=-100, **arguments)
        answers.append((loss, count, paddle.grad(loss * 3.0, [hidden, weight])))
    return answers


@pytest.mark.parametrize("block", [1 << 24, 2 * V, 1])
def test_loss_and_gradients_are_those_of_the_reference(block: int, monkeypatch):
    monkeypatch.setattr(head_loss, "MAX_LOGITS", block)
    (loss, count, gradients), (want, wanted_count, wanted) = both(*inputs())
    assert count == wanted_count == T - 2 and loss.shape == []
    np.testing.assert_allclose(float(loss), float(want), rtol=2e-6)
    for got, right in zip(gradients, wanted):
        np.testing.assert_allclose(got.numpy(), right.numpy(), rtol=1e-5, atol=1e-6)
    assert not gradients[0].numpy()[[1, 5]].any(), "rows without a label"


def test_it_is_exact_where_a_probability_underflows():
    (loss, _, _), (want, _, _) = both(*inputs(scale=30.0))
    assert float(want) > 1000 * 10
    np.testing.assert_allclose(float(loss), float(want), rtol=1e-6)


def test_no_label_at_all_gives_zero_with_gradients_of_zeros():
    hidden, weight, _ = inputs()
    loss, count = head_loss.linear_cross_entropy(hidden, weight, np.full(T, -100), ignore_index=-100)
    assert (float(loss), count) == (0.0, 0)
    assert not paddle.grad(loss, [hidden])[0].numpy().any()


@pytest.mark.parametrize("frozen", [0, 1])
def test_a_frozen_input_takes_no_gradient(frozen: int):
    leaves = list(inputs()[:2])
    leaves[frozen].stop_gradient = True
    loss, _ = head_loss.linear_cross_entropy(*leaves, inputs()[2], ignore_index=-100)
    loss.backward()
    assert leaves[frozen].grad is None and leaves[1 - frozen].grad is not None


def test_narrow_inputs_get_narrow_gradients():
    hidden, weight = (paddle.to_tensor(x.numpy()).astype("bfloat16") for x in inputs()[:2])
    for leaf in (hidden, weight):
        leaf.stop_gradient = False
    loss, _ = head_loss.linear_cross_entropy(hidden, weight, inputs()[2], ignore_index=-100)
    assert loss.dtype == paddle.float32
    assert [x.dtype for x in paddle.grad(loss, [hidden, weight])] == [paddle.bfloat16] * 2


def test_all_its_operators_are_native_in_float32():
    table = operator_support()["operators"]
    used = ["add", "add_n", "cast", "concat", "divide", "exp", "gather", "gather_grad", "index_sample", "log"]
    used += ["matmul", "max", "multiply", "slice", "subtract", "sum"]
    assert [op for op in used if "float32" not in table[op]] == []
    assert "int64" in table["one_hot"]
    assert "index_add" not in table and "logsumexp" not in table, "the reference would do"
