"""Rotary positions: worked out by hand, and as transformers counts them where its 5.3.0 counts right."""

from __future__ import annotations

import numpy as np
import pytest

from mix_core.errors import DataError
from mix_core.models.qwen2_5_vl.geometry import batch_positions

IMAGE, VIDEO = 90, 91
CONSTANTS = dict(image_token_id=IMAGE, video_token_id=VIDEO, merge=2, tokens_per_second=2)


def positions(rows, images=None, videos=None, seconds=None, mask=None, **constants):
    ids = np.array(rows)
    given = [None if grid is None else np.array(grid) for grid in (images, videos, seconds)]
    return batch_positions(ids, None if mask is None else np.array(mask), *given, **(CONSTANTS | constants))


def test_text_counts_up_on_all_axes() -> None:
    np.testing.assert_array_equal(positions([[5, 6, 7]]), [[[0, 1, 2]]] * 3)


def test_an_image_stands_at_one_time_and_text_goes_on_after_its_longer_side() -> None:
    found = positions([[1, 2, *[IMAGE] * 6, 3, 4]], images=[[1, 4, 6]])[:, 0]
    assert found[0].tolist() == [0, 1, 2, 2, 2, 2, 2, 2, 5, 6]
    assert found[1].tolist() == [0, 1, 2, 2, 2, 3, 3, 3, 5, 6]
    assert found[2].tolist() == [0, 1, 2, 3, 4, 2, 3, 4, 5, 6]


def test_a_videos_time_advances_with_its_seconds() -> None:
    # the example of the published code: 3 grid steps of 2 x 2 cells, 25 positions a second, 2 seconds a step
    found = positions([[*[VIDEO] * 12, 1, 2]], videos=[[3, 4, 4]], seconds=[2.0], tokens_per_second=25)[:, 0]
    assert found[0].tolist() == [0] * 4 + [50] * 4 + [100] * 4 + [101, 102]
    assert found[1].tolist() == [0, 0, 1, 1] * 3 + [101, 102]
    assert found[2].tolist() == [0, 1, 0, 1] * 3 + [101, 102]


@pytest.mark.parametrize("seconds,times", [(0.5, [0, 1, 2, 3]), (0.25, [0, 0, 1, 1]), (0.75, [0, 1, 3, 4])])
def test_fractions_of_a_position_are_cut_after_the_product(seconds, times) -> None:
    found = positions([[VIDEO] * 4], videos=[[4, 2, 2]], seconds=[seconds])[0, 0]
    assert found.tolist() == times


def test_a_video_without_seconds_counts_one_a_step() -> None:
    assert positions([[VIDEO] * 3], videos=[[3, 2, 2]])[0, 0].tolist() == [0, 2, 4]


def test_neighbours_without_text_between_them_are_two_images() -> None:
    found = positions([[*[IMAGE] * 3, 1]], images=[[1, 2, 4], [1, 2, 2]])[:, 0]
    assert found.tolist() == [[0, 0, 2, 3], [0, 0, 2, 3], [0, 1, 2, 3]]


def test_padding_does_not_count() -> None:
    rows, mask = [[0, 0, 5, 6], [5, 6, 7, 8]], [[0, 0, 1, 1], [1, 1, 1, 1]]
    found = positions(rows, mask=mask)
    assert found[0].tolist() == [[0, 0, 0, 1], [0, 1, 2, 3]]


def test_packed_segments_start_again() -> None:
    ids = np.array([[1, IMAGE, 2, 3, 4, IMAGE]])
    found = batch_positions(
        ids, None, np.array([[1, 2, 2]] * 2), None, None, cu_seqlens=np.array([0, 3, 6]), **CONSTANTS
    )
    assert found[0, 0].tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(
    "row,images,message",
    [
        ([1, IMAGE, IMAGE, 2], [[1, 4, 6]], "needs 6 image pad tokens in a row, found 2"),
        ([1, IMAGE, 2, IMAGE], [[1, 2, 4]], "needs 2 image pad tokens in a row, found 1"),
        ([1, IMAGE], None, "token 1 of the text is a pad token for images"),
        ([1, 2], [[1, 2, 2]], "1 image and 0 video grids have no pad tokens"),
    ],
)
def test_tokens_that_do_not_match_the_grids(row, images, message) -> None:
    with pytest.raises(DataError, match=message):
        positions([row], images=images)


def test_as_transformers_counts_images() -> None:
    """With one position a second its 5.3.0 does not scale a still image's time."""
    pytest.importorskip("transformers", reason="live parity needs transformers")
    torch = pytest.importorskip("torch", reason="live parity needs torch")
    from tests.builders.checkpoints import flat_config, transformers_model
    from tests.parity.batches import IDS

    config = flat_config(IDS, 320, vision={"tokens_per_second": 1})
    pad = IDS["<|image_pad|>"]
    ids = np.array([[7, 7, 7, *[pad] * 6, 8, *[pad] * 4, 9, 9], [*[pad] * 10, 5, 5, 5, 5, 5, 5]])
    mask = np.ones_like(ids)
    mask[0, 0] = 0
    grids = np.array([[1, 4, 6], [1, 4, 4], [1, 4, 10]])
    expected, _ = transformers_model(config).model.get_rope_index(
        torch.tensor(ids),
        torch.tensor(ids == pad).int(),
        image_grid_thw=torch.tensor(grids),
        attention_mask=torch.tensor(mask),
    )
    constants = CONSTANTS | {"image_token_id": pad, "tokens_per_second": 1}
    np.testing.assert_array_equal(
        batch_positions(ids, mask, grids, None, None, **constants), expected.numpy()
    )
