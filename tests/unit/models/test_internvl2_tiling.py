"""Which grid of tiles a picture gets, by the rule written another way and by hand; and the tiles."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from PIL import Image

from mix_core.errors import BadInputError
from mix_core.models.common.geometry import byte_values, normalized
from mix_core.models.internvl2.tiling import MEAN, STD, Tiler, best_grid

SIDE = 448
BY_HAND = {
    # (width, height, fewest, most) -> (columns, rows)
    (448, 448, 1, 12): (1, 1),  # 4 tiles would need more than 2 * 448^2 = 401,408 pixels, it has 200,704
    (700, 700, 1, 12): (2, 2),  # 490,000 pixels: enough for 2 x 2, not for 3 x 3 (903,168)
    (1000, 1000, 1, 12): (3, 3),
    (633, 633, 1, 12): (1, 1),  # 400,689: just short of half of 2 x 2
    (634, 634, 1, 12): (2, 2),  # 401,956: just over it
    (800, 600, 1, 12): (4, 3),  # the one grid of ratio 4/3: taken however small the picture
    (8, 6, 1, 12): (4, 3),
    (800, 600, 1, 6): (3, 2),  # 4/3 lies nearer to 3/2 (1/6 off) than to 1 (1/3 off)
    (100, 1000, 1, 12): (1, 10),
    (10, 2000, 1, 12): (1, 12),
    (2000, 10, 1, 6): (6, 1),
    (896, 448, 1, 6): (2, 1),  # 401,408 is not more than half of 2 x 4 (802,816)
    (1600, 800, 1, 12): (4, 2),
    (500, 400, 1, 1): (1, 1),
    (500, 500, 3, 4): (2, 2),
}


@pytest.mark.parametrize("given,expected", BY_HAND.items(), ids=str)
def test_cases_worked_out_by_hand(given, expected) -> None:
    width, height, fewest, most = given
    assert best_grid(width, height, side=SIDE, min_tiles=fewest, max_tiles=most) == expected


def all_by_fractions(width: int, height: int, fewest: int, most: int) -> set[tuple[int, int]]:
    """The grids that the rule allows, in exact numbers: ratio first, then size.

    Of the grids of the nearest ratio the smallest stands, and is replaced by each larger one of which the
    picture has more than half the pixels. Where a wider and a taller ratio are equally far off, the published
    rule leaves it to the rounding of quotients whether both or one of them count; any of these is allowed.
    """
    possible = [g for g in product(range(1, most + 1), repeat=2) if fewest <= g[0] * g[1] <= most]
    wanted = Fraction(width, height)
    nearest = min(abs(wanted - Fraction(*grid)) for grid in possible)
    near = [grid for grid in possible if abs(wanted - Fraction(*grid)) == nearest]
    ratios = {Fraction(*grid) for grid in near}
    allowed: set[tuple[int, int]] = set()
    for counted in [ratios, *({ratio} for ratio in ratios)]:
        grids = [grid for grid in near if Fraction(*grid) in counted]
        fitting = [c * r for c, r in grids if 2 * width * height > SIDE * SIDE * c * r]
        tiles = max([min(c * r for c, r in grids), *fitting])
        allowed |= {grid for grid in grids if grid[0] * grid[1] == tiles}
    return allowed


@pytest.mark.parametrize("fewest,most", [(1, 1), (1, 6), (1, 12), (1, 40), (2, 12), (4, 9)])
def test_the_rule_in_exact_numbers(fewest: int, most: int) -> None:
    rng = np.random.default_rng(most)
    sizes = [tuple(size) for size in rng.integers(1, 3000, (300, 2)).tolist()]
    sizes += [(448 * i // 2, 448 * j // 2) for i in range(1, 9) for j in range(1, 9)]
    ambiguous = 0
    for width, height in sizes:
        allowed = all_by_fractions(width, height, fewest, most)
        ambiguous += len(allowed) > 1
        assert best_grid(width, height, side=SIDE, min_tiles=fewest, max_tiles=most) in allowed, (
            width,
            height,
        )
    assert ambiguous <= len(sizes) // 20


def test_the_rule_as_transformers_has_it() -> None:
    """Its processor has the rule too; it orders grids of as many tiles otherwise, which matters from 2 on."""
    module = pytest.importorskip(
        "transformers.models.got_ocr2.image_processing_got_ocr2", reason="live parity"
    )
    for size in np.random.default_rng(0).integers(1, 2500, (400, 2)).tolist():
        theirs = module.get_optimal_tiled_canvas((size[1], size[0]), (SIDE, SIDE), 1, 12)
        assert best_grid(*size, side=SIDE, min_tiles=1, max_tiles=12) == theirs, size


def picture(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.mark.parametrize("size", [(80, 40), (28, 28), (31, 97), (200, 150)])
def test_pixels_are_those_of_transformers(size) -> None:
    pytest.importorskip("torch", reason="live parity needs torch")
    module = pytest.importorskip(
        "transformers.models.got_ocr2.image_processing_got_ocr2", reason="live parity"
    )
    theirs = module.GotOcr2ImageProcessor(
        size={"height": 28, "width": 28},
        crop_to_patches=True,
        min_patches=1,
        max_patches=6,
        resample=Image.Resampling.BICUBIC,
        image_mean=list(MEAN),
        image_std=list(STD),
    )
    expected = np.asarray(theirs(picture(*size), return_tensors="np")["pixel_values"])
    tiler = Tiler(side=28, min_tiles=1, max_tiles=6, thumbnail=True)
    found = normalized(tiler.tiles(picture(*size)), byte_values(MEAN, STD))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


def test_tiles_stand_row_by_row_and_the_thumbnail_last() -> None:
    tiler = Tiler(side=4, min_tiles=1, max_tiles=6, thumbnail=True)
    whole = picture(12, 8)
    tiles = tiler.tiles(whole)
    assert tiles.shape == (7, 4, 4, 3) and tiler.target_size(8, 12) == (8, 12)
    pixels = np.asarray(whole)
    np.testing.assert_array_equal(tiles[2], pixels[:4, 8:])
    np.testing.assert_array_equal(tiles[3], pixels[4:, :4])
    np.testing.assert_array_equal(tiles[6], np.asarray(whole.resize((4, 4), Image.Resampling.BICUBIC)))
    assert len(Tiler(side=4, min_tiles=1, max_tiles=6, thumbnail=False).tiles(whole)) == 6
    assert len(tiler.tiles(picture(5, 5))) == 1, "one tile needs no thumbnail"


def test_limits_that_contradict() -> None:
    with pytest.raises(BadInputError, match="7 to 6 tiles"):
        Tiler(side=448, min_tiles=7, max_tiles=6, thumbnail=True)
