"""The head and its cross entropy in one, over Paddle's operators, which have float32 forms for the CPU."""

from __future__ import annotations

from functools import partial

import numpy as np
import paddle
import pytest
from mix_device_xpu.head_loss import LossFunctions, linear_cross_entropy

from mix_core import ops
from mix_device_xpu import kernels

T, D, V = 7, 5, 11
LABELS = np.array([3, -100, 0, 10, 3, -100, 5])


def inputs():
    rng = np.random.default_rng(0)
    made = (rng.standard_normal((T, D)), rng.standard_normal((V, D)))
    return [paddle.to_tensor(array.astype(np.float32), stop_gradient=False) for array in made]


@pytest.mark.parametrize("max_logits", [1 << 20, 2 * V, 1])
def test_loss_and_gradients_are_the_reference_s(max_logits: int):
    run = partial(linear_cross_entropy, kernels.published().loss, max_logits=max_logits)
    results = []
    for function in (run, ops.linear_cross_entropy):
        hidden, weight = inputs()
        loss, count = function(hidden, weight, LABELS)
        (loss * 0.5).backward()
        assert count == 5 and loss.shape == [] and loss.dtype == paddle.float32
        results.append([loss.numpy(), hidden.grad.numpy(), weight.grad.numpy()])
    for found, expected in zip(*results):
        assert np.allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert (results[0][1][LABELS == -100] == 0).all()


@pytest.mark.parametrize("frozen", [0, 1])
def test_a_frozen_input_gets_no_gradient(frozen: int):
    tensors = inputs()
    tensors[frozen].stop_gradient = True
    loss, _ = linear_cross_entropy(kernels.published().loss, *tensors, LABELS)
    loss.backward()
    assert tensors[frozen].grad is None
    assert float(tensors[1 - frozen].grad.abs().sum()) > 0


def test_without_labels_the_loss_is_zero_and_has_a_gradient():
    hidden, weight = inputs()
    loss, count = linear_cross_entropy(kernels.published().loss, hidden, weight, np.full(T, -100))
    loss.backward()
    assert (float(loss), count) == (0.0, 0) and (hidden.grad.numpy() == 0).all()


def test_no_gradient_is_made_where_none_is_asked_for(recorder):
    published = kernels.published().loss
    forward, backward = recorder(published.cross_entropy_with_softmax), recorder(None)
    with paddle.no_grad():
        loss, _ = linear_cross_entropy(LossFunctions(forward, backward), *inputs(), LABELS, max_logits=2 * V)
    assert float(loss) > 0 and backward.calls == []
    # two rows a block, and the arguments: no soft labels, softmax wanted, stable, ignore_index, axis
    assert [call[0][0].shape for call in forward.calls] == [[2, V], [2, V], [1, V]]
    for arguments, keywords in forward.calls:
        assert arguments[0].dtype == paddle.float32 and arguments[1].dtype == paddle.int64
        assert arguments[1].shape == [arguments[0].shape[0], 1]
        assert arguments[2:] == (False, True, True, -100, -1) and not keywords
