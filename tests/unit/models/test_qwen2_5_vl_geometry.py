"""The order of the vision tower's work: windows cover each frame once, patches know their row and column."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mix_core.errors import DataError
from mix_core.models.qwen2_5_vl.geometry import vision_plan

MERGE = 2
GRIDS = st.lists(
    st.tuples(
        st.integers(1, 3), st.integers(1, 7).map(lambda n: 2 * n), st.integers(1, 7).map(lambda n: 2 * n)
    ),
    min_size=1,
    max_size=3,
)


def places(grids) -> np.ndarray:
    """(picture, frame, row, column) of each cell in the processor's order."""
    return np.array(
        [
            (picture, frame, row, column)
            for picture, (t, h, w) in enumerate(grids)
            for frame in range(t)
            for row in range(h // MERGE)
            for column in range(w // MERGE)
        ]
    )


@settings(max_examples=60, deadline=None)
@given(GRIDS, st.integers(1, 4))
def test_each_window_is_one_square_of_one_frame(grids, side: int) -> None:
    plan = vision_plan(tuple(grids), MERGE, side)
    cells = places(grids)
    assert sorted(plan.window_order_C) == list(range(len(cells)))
    np.testing.assert_array_equal(plan.window_order_C[plan.frame_order_C], np.arange(len(cells)))
    seen = set()
    ends = plan.cu_windows // MERGE**2
    for start, end in pairwise(ends):
        of_window = cells[plan.window_order_C[start:end]]
        squares = {(picture, frame, row // side, column // side) for picture, frame, row, column in of_window}
        assert len(squares) == 1 and not squares & seen
        seen |= squares
    assert ends[-1] == len(cells)


@settings(max_examples=30, deadline=None)
@given(GRIDS)
def test_patches_know_their_row_and_column(grids) -> None:
    plan = vision_plan(tuple(grids), MERGE, 2)
    cells = np.repeat(places(grids)[:, 2:], MERGE**2, axis=0)
    within = np.tile([(0, 0), (0, 1), (1, 0), (1, 1)], (len(places(grids)), 1))
    np.testing.assert_array_equal(plan.row_column_P2, cells * MERGE + within)
    frames = np.repeat([h * w for _, h, w in grids], [t for t, _, _ in grids])
    np.testing.assert_array_equal(np.diff(plan.cu_frames), frames)


def test_windows_of_one_size_stand_together() -> None:
    plan = vision_plan(((1, 6, 10), (1, 6, 10)), MERGE, 2)
    lengths = np.diff(plan.cu_windows)
    assert lengths.tolist() == sorted(lengths, reverse=True)
    assert len(set(lengths)) == 3


def test_small_pictures_need_no_move() -> None:
    assert vision_plan(((1, 4, 4), (1, 4, 4)), MERGE, 4).windows_are_frames
    assert not vision_plan(((1, 4, 12),), MERGE, 4).windows_are_frames
    # windows as frames, but in another order: the larger picture comes first
    assert not vision_plan(((1, 2, 2), (1, 4, 4)), MERGE, 4).windows_are_frames


@pytest.mark.parametrize("grid", [(1, 3, 4), (1, 4, 5), (0, 4, 4), (1, 0, 4)])
def test_grids_that_are_no_grids(grid) -> None:
    with pytest.raises(DataError, match="multiples of 2, all > 0"):
        vision_plan((grid,), MERGE, 2)
