"""LLaVA's geometry and tiles, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mix_core.errors import BadInputError
from mix_core.models.llava.config import PINPOINTS
from mix_core.models.llava.geometry import (
    NEWLINE,
    batch_rows,
    best_pinpoint,
    fitted_size,
    rows_of,
    tile_count,
)
from mix_core.models.llava.image_processor import ImageProcessor

SETTINGS = {"size": {"shortest_edge": 4}, "crop_size": {"height": 4, "width": 4}}
SMALL = ((4, 8), (8, 4), (8, 8))


@pytest.mark.parametrize(
    "size,pinpoint,fitted",
    [
        ((336, 672), (336, 672), (336, 672)),
        ((100, 100), (336, 672), (336, 336)),  # all keep it whole; of those that waste least the first
        ((1000, 1000), (672, 672), (672, 672)),
        ((480, 640), (672, 672), (504, 672)),
        ((200, 2000), (336, 1008), (101, 1008)),  # 100.8 pixels, rounded up
        ((2000, 200), (1008, 336), (1008, 101)),
        ((1, 1), (336, 672), (336, 336)),
        ((1, 5000), (336, 672), (1, 672)),  # every pinpoint keeps less than a pixel's height
    ],
)
def test_the_best_of_the_published_pinpoints(size, pinpoint, fitted) -> None:
    assert best_pinpoint(size, PINPOINTS) == pinpoint
    assert fitted_size(size, pinpoint) == fitted


@pytest.mark.parametrize(
    "size,rows",
    [
        ((672, 672), 576 + 48 * (48 + 1)),
        ((480, 640), 576 + 36 * (48 + 1)),  # 12 of 48 rows of patches are bars
        ((640, 480), 576 + 48 * (36 + 1)),
        ((336, 1008), 576 + 24 * (72 + 1)),
        ((10, 5000), 576),  # nothing but bars is left over
    ],
)
def test_rows_of_published_sizes(size, rows) -> None:
    assert len(rows_of(size, PINPOINTS, 336, 24)) == rows


def test_which_patch_stands_where() -> None:
    # two tiles side by side, 2 x 2 patches each, after the small view's rows 0 to 3
    rows = rows_of((4, 8), SMALL, 4, 2)
    assert rows.tolist() == [0, 1, 2, 3, 4, 5, 8, 9, NEWLINE, 6, 7, 10, 11, NEWLINE]
    # as wide, half as high: of 2 rows of patches 1 is bars, half of it above and half below, so both stay
    assert rows_of((2, 8), SMALL, 4, 2).tolist() == rows.tolist()
    assert rows_of((1, 40), SMALL, 4, 2).tolist() == [0, 1, 2, 3]
    assert tile_count((4, 8), SMALL, 4) == 3 and tile_count((8, 8), SMALL, 4) == 5


def test_pictures_follow_each_other() -> None:
    both = batch_rows([(4, 8), (8, 8)], SMALL, 4, 2)
    first, second = rows_of((4, 8), SMALL, 4, 2), rows_of((8, 8), SMALL, 4, 2)
    np.testing.assert_array_equal(both[: len(first)], first)
    np.testing.assert_array_equal(both[len(first) :], np.where(second == NEWLINE, NEWLINE, second + 3 * 4))


def test_tiles_hold_the_picture_between_black_bars() -> None:
    processor = ImageProcessor.from_dict({**SETTINGS, "image_grid_pinpoints": SMALL}, anyres=True)
    tiles = processor.tiles(Image.new("RGB", (8, 2), (200, 100, 50)))
    assert tiles.shape == (3, 4, 4, 3)
    assert (tiles[0] == (200, 100, 50)).all(), "the small view has no bars"
    for tile in tiles[1:]:
        assert (tile[1:3] == (200, 100, 50)).all() and not tile[[0, 3]].any()


@pytest.mark.parametrize("width,height", [(60, 1), (60, 3), (1, 60), (1, 1)])
def test_sides_of_one_and_three_pixels_are_pictures(width: int, height: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    image = Image.fromarray(pixels)
    processor = ImageProcessor.from_dict({**SETTINGS, "image_grid_pinpoints": SMALL}, anyres=True)
    tiles = processor.tiles(image)
    np.testing.assert_array_equal(tiles[0], np.asarray(image.resize((4, 4), Image.Resampling.BICUBIC)))
    fitted = processor.target_size(height, width)
    shown = np.asarray(image.resize(fitted[::-1], Image.Resampling.BICUBIC))
    canvas = tiles[1:].sum(axis=(0, 1, 2), dtype=np.int64)
    np.testing.assert_array_equal(canvas, shown.sum(axis=(0, 1), dtype=np.int64))


def test_the_middle_is_cut_out_and_bars_have_the_mean_colour() -> None:
    pixels = np.zeros((4, 12, 3), np.uint8)
    pixels[:, 4:8] = 255
    image = Image.fromarray(pixels)
    assert (ImageProcessor.from_dict(SETTINGS, anyres=False).tiles(image) == 255).all()
    padded = ImageProcessor.from_dict({**SETTINGS, "do_pad": True}, anyres=False).tiles(
        Image.new("RGB", (2, 4))
    )
    assert padded[0, 0, 0].tolist() == [122, 116, 104]


@pytest.mark.parametrize(
    "keys,says",
    [
        ({"size": {"longest_edge": 4}}, "size = {'longest_edge': 4}"),
        ({"size": {"height": 4, "width": 8}}, "expected to resize to one side"),
        ({"do_resize": False}, "do_resize False"),
        ({"do_center_crop": False}, "do_center_crop False"),
        ({"crop_size": {"height": 8, "width": 8}}, "expected one side"),
        ({"image_mean": [0.5]}, "three values in image_mean"),
        ({"image_grid_pinpoints": [[4, 6]]}, "multiples of the tile's"),
        ({"image_grid_pinpoints": [4, 8]}, "list of [height, width]"),
    ],
)
def test_settings_that_cannot_be_are_refused(keys, says) -> None:
    with pytest.raises(BadInputError) as caught:
        ImageProcessor.from_dict({**SETTINGS, "image_grid_pinpoints": SMALL, **keys}, anyres=True)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_older_files_give_sizes_as_numbers() -> None:
    assert ImageProcessor.from_dict({"size": 336, "crop_size": 336}, anyres=False).side == 336
