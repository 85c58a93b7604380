"""The CPU's linear_cross_entropy against float64.

Shapes: T tokens, D model dim, V vocabulary.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

from mix_core.device import cpu_kernels, native, native_build

pytestmark = pytest.mark.skipif(
    native.find_compiler()[0] is None, reason="no C++ compiler on this machine: the references run"
)
FORWARD, GRADIENT = 1e-6, 1e-5
ISA = os.environ.get("MIX_CPU_ISA")


@pytest.fixture(autouse=True, scope="module")
def built_operators() -> None:
    state = native_build.load()
    assert state.library is not None, state.reason


def exact(hidden, weight, labels):
    """Loss and gradients by the formula in float64."""
    rows = np.flatnonzero(labels != -100)
    wide = hidden.astype(np.float64)[rows]
    logits = wide @ weight.astype(np.float64).T
    shifted = logits - logits.max(-1, keepdims=True)
    total = np.exp(shifted).sum(-1, keepdims=True)
    slope = np.exp(shifted) / total
    at_label = (np.arange(len(rows)), labels[rows])
    loss = (np.log(total[:, 0]) - shifted[at_label]).sum()
    slope[at_label] -= 1
    d_hidden = np.zeros(hidden.shape)
    d_hidden[rows] = slope @ weight.astype(np.float64)
    return loss, d_hidden, slope.T @ wide


def distance(found, wanted):
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


def drawn(T, D, V, *, seed=0, ignored=0.3):
    rng = np.random.default_rng(seed)
    hidden, weight = (rng.standard_normal((n, D)).astype(np.float32) for n in (T, V))
    labels = np.where(rng.random(T) < ignored, -100, rng.integers(0, V, T))
    labels[-1] = V - 1
    return hidden, weight, labels


def run(hidden, weight, labels, *, learn=(True, True), factor=None):
    pair = [paddle.to_tensor(x, stop_gradient=not asked) for x, asked in zip((hidden, weight), learn)]
    loss, count = cpu_kernels.linear_cross_entropy(*pair, labels, ignore_index=-100)
    assert loss.shape == [] and count == (labels != -100).sum()
    (loss if factor is None else loss * factor).backward()
    return float(loss), *(None if x.grad is None else x.grad.numpy() for x in pair)


SHAPES = {
    "one token": (1, 7, 5),
    "one word": (3, 4, 1),
    "odd": (37, 33, 129),
    "wide vocabulary": (70, 24, 5003),
    "more than a block": (600, 9, 20_011),
}


@pytest.mark.parametrize("case", SHAPES)
@pytest.mark.parametrize("factor", [None, 0.125])
def test_loss_and_gradients(case, factor) -> None:
    hidden, weight, labels = drawn(*SHAPES[case])
    loss, d_hidden, d_weight = run(hidden, weight, labels, factor=factor)
    wanted, wanted_hidden, wanted_weight = exact(hidden, weight, labels)
    if SHAPES[case][2] == 1:  # the only word is certain
        assert loss == 0.0 and not d_hidden.any() and not d_weight.any()
        return
    assert abs(loss - wanted) / wanted < FORWARD
    assert distance(d_hidden, wanted_hidden * (factor or 1.0)) < GRADIENT
    assert distance(d_weight, wanted_weight * (factor or 1.0)) < GRADIENT
    assert not d_hidden[labels == -100].any()


@pytest.mark.parametrize("learn", [(True, False), (False, True)])
def test_what_is_frozen_gets_no_gradient_and_the_other_one_the_same(learn) -> None:
    inputs = drawn(50, 16, 300)
    both, one = run(*inputs), run(*inputs, learn=learn)
    assert one[0] == both[0]
    for asked, found, wanted in zip(learn, one[1:], both[1:]):
        if asked:
            np.testing.assert_array_equal(found, wanted)
        else:
            assert found is None


def test_without_gradients_none_are_made() -> None:
    hidden, weight, labels = drawn(20, 8, 50)
    pair = [paddle.to_tensor(x, stop_gradient=False) for x in (hidden, weight)]
    with paddle.no_grad():
        loss, _ = cpu_kernels.linear_cross_entropy(*pair, labels, ignore_index=-100)
    assert loss.stop_gradient
    assert float(loss) == run(hidden, weight, labels)[0]


def test_no_row_with_a_label() -> None:
    hidden, weight, labels = drawn(5, 8, 11)
    loss, d_hidden, d_weight = run(hidden, weight, np.full_like(labels, -100))
    assert loss == 0.0 and not d_hidden.any() and not d_weight.any()


def test_a_probability_that_underflows_still_gives_its_loss() -> None:
    hidden = np.float32([[300, 0], [1, 0], [-1e4, 0]])
    weight = np.float32([[1, 0], [0, 1], [0.5, 0]])
    labels = np.array([1, 0, 0])
    loss, d_hidden, _ = run(hidden, weight, labels)
    assert loss == pytest.approx(exact(hidden, weight, labels)[0], rel=1e-7)
    np.testing.assert_allclose(d_hidden[[0, 2]], [[1, -1], [-1, 1]], atol=1e-6)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["hidden", "weight"])
def test_what_is_not_finite_reaches_the_loss(where, wrong) -> None:
    hidden, weight, labels = drawn(5, 8, 17, ignored=0)
    (hidden if where == "hidden" else weight)[4, 3] = wrong
    assert not np.isfinite(run(hidden, weight, labels)[0])


def test_the_same_numbers_every_time() -> None:
    inputs = drawn(300, 64, 9001)
    first, second = run(*inputs), run(*inputs)
    for one, other in zip(first, second):
        np.testing.assert_array_equal(one, other)


def test_a_matrix_tied_to_the_embedding_gets_both_gradients() -> None:
    _, weight, labels = drawn(30, 12, 40)
    ids = np.arange(30) % 7
    tied = paddle.to_tensor(weight, stop_gradient=False)
    hidden = paddle.nn.functional.embedding(paddle.to_tensor(ids), tied) * 2.0
    cpu_kernels.linear_cross_entropy(hidden, tied, labels, ignore_index=-100)[0].backward()
    _, d_hidden, d_weight = exact(2 * weight[ids], weight, labels)
    np.add.at(d_weight, ids, 2 * d_hidden)
    assert distance(tied.grad.numpy(), d_weight) < GRADIENT


def test_inputs_that_are_not_contiguous() -> None:
    hidden, weight, labels = drawn(20, 8, 50)
    views = [paddle.to_tensor(x.T.copy()).t() for x in (hidden, weight)]
    loss, _ = cpu_kernels.linear_cross_entropy(*views, labels, ignore_index=-100)
    assert float(loss) == pytest.approx(exact(hidden, weight, labels)[0], rel=FORWARD)


@pytest.mark.parametrize("label", [-1, 50])
def test_a_label_outside_the_vocabulary_is_named(label) -> None:
    hidden, weight, labels = drawn(20, 8, 50)
    labels[7] = label
    with pytest.raises(Exception, match=f"label {label} of row 7"):
        cpu_kernels.linear_cross_entropy(
            paddle.to_tensor(hidden), paddle.to_tensor(weight), labels, ignore_index=-100
        )


@pytest.mark.skipif(ISA is not None, reason="this is the run on one instruction set")
@pytest.mark.parametrize("isa", ["portable", "avx2"])
def test_every_instruction_set_passes_the_same_tests(isa) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(Path(__file__))]
    environment = {**os.environ, "MIX_CPU_ISA": isa}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:]
