"""How a difference is found and told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mix_core.conformance.case import Context, Mismatch
from mix_core.conformance.closeness import require_close, require_equal


@pytest.fixture
def context():
    return Context(target=None, scratch=Path("."))


def compare(context, found, expected, limit=1e-3):
    require_close(context, "the result of add", np.array(found), np.array(expected), limit, "x [2]")


def test_a_difference_names_what_how_far_where_and_on_what(context):
    with pytest.raises(Mismatch) as caught:
        compare(context, [1.0, 2.5], [1.0, 2.0])
    text = str(caught.value)
    assert "the result of add is off by 2.24e-01 in norm (at most 1.00e-03)" in text
    assert "worst at [1]: got 2.5, expected 2; on x [2]" in text


def test_one_wrong_element_does_not_hide_in_a_norm(context):
    expected = np.ones(1_000_000)
    found = expected.copy()
    found[77] += 0.1  # 1e-4 in norm
    with pytest.raises(Mismatch, match=r"worst at \[77\]"):
        compare(context, found, expected)


def test_what_is_close_passes_and_leaves_its_distance(context):
    compare(context, [1.0, 2.0 + 1e-6], [1.0, 2.0])
    assert context.facts["limit"] == 1e-3
    assert 0 < context.facts["distance"] < 1e-6


def test_the_distance_kept_is_the_one_nearest_its_limit(context):
    compare(context, [1.0 + 1e-6], [1.0], limit=1e-5)
    compare(context, [1.0 + 1e-6], [1.0], limit=1e-2)
    assert context.facts["limit"] == 1e-5


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_told(context, bad):
    with pytest.raises(Mismatch, match=r"is not finite: \[0\]"):
        compare(context, [bad], [1.0])


def test_a_wider_limit_counts(context):
    context.factor = 4.0
    compare(context, [1.003], [1.0])
    context.factor = 1.0
    with pytest.raises(Mismatch):
        compare(context, [1.003], [1.0])


def test_shapes_are_held(context):
    with pytest.raises(Mismatch, match=r"has shape \[1, 2\], expected \[2\]"):
        compare(context, [[1.0, 2.0]], [1.0, 2.0])


def test_equal_counts_wrong_elements():
    require_equal("the copy", np.array([1, 2]), np.array([1, 2]), "2 numbers")
    with pytest.raises(Mismatch, match=r"differs in 1 of 2 elements, first at \[1\]: got 3, expected 2"):
        require_equal("the copy", np.array([1, 3]), np.array([1, 2]), "2 numbers")
