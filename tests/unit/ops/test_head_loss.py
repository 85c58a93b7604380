"""linear_cross_entropy against its formula in float64."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from mix_core import ops
from mix_core.errors import DataError
from mix_core.ops import head_loss
from tests.unit.ops import oracle

T, D, V = 11, 6, 9
LABELS = np.array([3, -100, 0, 8, 8, -100, 1, 2, -100, 4, 7])


def formula(hidden: np.ndarray, weight: np.ndarray) -> np.ndarray:
    rows = LABELS != -100
    logits = hidden[rows] @ weight.T
    top = logits.max(-1)
    total = np.log(np.exp(logits - top[:, None]).sum(-1)) + top
    return (total - logits[np.arange(len(logits)), LABELS[rows]]).sum()


@pytest.mark.parametrize("limit", [1 << 24, 3 * V, 1])
def test_loss_and_gradients_in_one_or_many_blocks(limit, monkeypatch) -> None:
    monkeypatch.setattr(head_loss, "MAX_LOGITS", limit)
    inputs = [oracle.draw(0, T, D), oracle.draw(1, V, D)]
    oracle.check(lambda h, w: ops.linear_cross_entropy(h, w, LABELS)[0], formula, inputs)


def test_count_and_no_labels() -> None:
    hidden, weight = (paddle.to_tensor(oracle.draw(i, n, D).astype("float32")) for i, n in ((0, T), (1, V)))
    assert ops.linear_cross_entropy(hidden, weight, LABELS)[1] == 8
    hidden.stop_gradient = False
    loss, count = ops.linear_cross_entropy(hidden, weight, np.full(T, -100))
    loss.backward()
    assert (float(loss), count) == (0.0, 0)
    np.testing.assert_array_equal(hidden.grad.numpy(), np.zeros((T, D)))


def test_another_ignored_label() -> None:
    hidden, weight = (paddle.to_tensor(oracle.draw(i, n, D).astype("float32")) for i, n in ((0, T), (1, V)))
    replaced = np.where(LABELS == -100, -1, LABELS)
    found, count = ops.linear_cross_entropy(hidden, weight, replaced, ignore_index=-1)
    assert count == 8
    assert float(found) == float(ops.linear_cross_entropy(hidden, weight, LABELS)[0])


def test_a_probability_too_small_for_its_type_still_gives_its_loss() -> None:
    hidden = paddle.to_tensor(np.array([[300.0, 0.0], [1.0, 0.0]], np.float32), stop_gradient=False)
    weight = paddle.to_tensor(np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.0]], np.float32))
    loss, _ = ops.linear_cross_entropy(hidden, weight, np.array([1, 0]))
    second = np.log(np.exp(1) + 1 + np.exp(0.5)) - 1
    assert float(loss) == pytest.approx(300 + second, rel=1e-6)
    loss.backward()
    np.testing.assert_allclose(hidden.grad.numpy()[0], [1.0, -1.0], atol=1e-6)


def test_frozen_head_and_frozen_hidden() -> None:
    for frozen in (0, 1):
        pair = [paddle.to_tensor(oracle.draw(i, n, D).astype("float32")) for i, n in ((0, T), (1, V))]
        pair[1 - frozen].stop_gradient = False
        ops.linear_cross_entropy(*pair, LABELS)[0].backward()
        assert pair[frozen].grad is None
        assert np.abs(pair[1 - frozen].grad.numpy()).sum() > 0


def test_without_gradients_none_are_made() -> None:
    hidden, weight = (paddle.to_tensor(oracle.draw(i, n, D).astype("float32")) for i, n in ((0, T), (1, V)))
    weight.stop_gradient = False
    with paddle.no_grad():
        loss, _ = ops.linear_cross_entropy(hidden, weight, LABELS)
    assert loss.stop_gradient


def test_many_equal_labels_add_up_the_same_every_time() -> None:
    hidden = paddle.to_tensor(oracle.draw(0, 400, 64).astype("float32"))
    labels = np.arange(400) % 3
    gradients = []
    for _ in range(5):
        weight = paddle.to_tensor(oracle.draw(1, V, 64).astype("float32"), stop_gradient=False)
        ops.linear_cross_entropy(hidden, weight, labels)[0].backward()
        gradients.append(weight.grad.numpy())
    logits = hidden.numpy().astype(np.float64) @ weight.numpy().astype(np.float64).T
    expected = (oracle.softmax(logits) - np.eye(V)[labels]).T @ hidden.numpy()
    for gradient in gradients:
        assert oracle.distance(gradient, expected) < oracle.GRADIENT
        np.testing.assert_array_equal(gradient, gradients[0])


@pytest.mark.parametrize("where", ["hidden", "weight"])
def test_a_nan_reaches_the_loss(where) -> None:
    rng = np.random.default_rng(3)
    hidden, weight = rng.standard_normal((5, 8)), rng.standard_normal((17, 8))
    labels = np.array([1, 2, -100, 4, 5])
    (hidden if where == "hidden" else weight)[4, 3] = np.nan
    parts = (paddle.to_tensor(part.astype(np.float32)) for part in (hidden, weight))
    loss, count = ops.linear_cross_entropy(*parts, labels)
    assert np.isnan(float(loss)) and count == 4


@pytest.mark.parametrize("label", [-1, V])
def test_a_label_outside_the_vocabulary_is_named(label) -> None:
    hidden, weight = (paddle.to_tensor(oracle.draw(i, n, D).astype("float32")) for i, n in ((0, T), (1, V)))
    with pytest.raises(DataError, match=f"label {label} of row 4"):
        ops.linear_cross_entropy(hidden, weight, np.where(np.arange(T) == 4, label, LABELS))


@pytest.mark.parametrize("rows", [1, 8, 9])
def test_logits_of_the_head(rows: int) -> None:
    oracle.check(ops.head_logits, lambda h, w: h @ w.T, [oracle.draw(0, rows, D), oracle.draw(1, V, D)])
    with paddle.no_grad():
        hidden, weight = oracle.draw(0, rows, D), oracle.draw(1, V, D)
        found = ops.head_logits(
            paddle.to_tensor(hidden.astype("float32")), paddle.to_tensor(weight.astype("float32"))
        )
    assert oracle.distance(found.numpy(), hidden @ weight.T) < oracle.FORWARD
