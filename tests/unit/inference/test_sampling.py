"""Draws: the same for a conversation wherever it stands, different for seeds, steps and repetitions."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from mix_core.errors import BadInputError, RunFailedError
from mix_core.inference.sampling import Sampler, row_keys, uniforms


def test_keys_follow_the_prompt_and_not_its_place_or_padding():
    ids = np.array([[0, 0, 5, 6], [1, 2, 3, 4], [0, 0, 5, 6]])
    mask = np.array([[0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 1, 1]])
    keys = row_keys(ids, mask, seed=3)
    alone = row_keys(np.array([[5, 6]]), np.ones((1, 2)), seed=3)
    right = row_keys(np.array([[1, 2, 3, 4, 9]]), np.array([[1, 1, 1, 1, 0]]), seed=3)
    assert (keys[0] == alone[0]).all() and (keys[1] == right[0]).all()
    assert (keys[2] != keys[0]).any(), "an equal prompt in the batch draws other numbers"
    assert (row_keys(ids, mask, seed=4)[0] != keys[0]).any()


def test_numbers_are_uniform_and_change_with_the_step():
    keys = row_keys(np.arange(500)[:, None], np.ones((500, 1)), seed=0)
    numbers = np.stack([uniforms(keys, step) for step in range(40)])
    assert numbers.min() >= 0 and numbers.max() < 1
    counts, _ = np.histogram(numbers, bins=20, range=(0, 1))
    assert ((counts - 1000) ** 2 / 1000).sum() < 43.8  # chi-square with 19 degrees of freedom, 0.1 %
    assert len(np.unique(numbers)) > 19_900


def test_draws_have_the_model_s_distribution():
    probabilities = np.array([0.5, 0.3, 0.15, 0.05], np.float32)
    keys = row_keys(np.arange(4000)[:, None], np.ones((4000, 1)), seed=1)
    logits = paddle.to_tensor(np.tile(np.log(probabilities), (4000, 1)))
    ids = Sampler(keys, temperature=1.0).pick(logits, 0)
    shares = np.bincount(ids, minlength=4) / 4000
    np.testing.assert_allclose(shares, probabilities, atol=0.03)
    assert set(Sampler(keys, temperature=1.0, top_k=2).pick(logits, 0)) == {0, 1}
    assert set(Sampler(keys, temperature=1.0, top_p=0.8).pick(logits, 0)) == {0, 1}
    assert set(Sampler(keys, temperature=1.0, top_p=0.81).pick(logits, 0)) == {0, 1, 2}
    assert set(Sampler(keys, temperature=0.0).pick(logits, 0)) == {0}


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", -0.1), ("temperature", float("nan")), ("top_k", -1), ("top_p", 0.0), ("top_p", 1.1)],
)
def test_values_out_of_range(name, value):
    with pytest.raises(BadInputError, match=rf"{name} is {value}, expected"):
        Sampler(np.zeros((1, 2), np.uint32), **{name: value})


def test_logits_that_are_not_finite_are_an_error_and_not_an_answer():
    logits = paddle.to_tensor(np.array([[0.0, np.nan, 1.0]], np.float32))
    with pytest.raises(RunFailedError, match="not finite"):
        Sampler(np.zeros((1, 2), np.uint32)).pick(logits, 0)
