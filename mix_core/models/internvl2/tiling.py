"""Pictures to tiles of one size: which grid fits a picture, and its cutting. numpy and Pillow only.

Shapes: N tiles, S side of a tile in pixels.
Chen et al., "How Far Are We to GPT-4V?", 2024, section 3.2: dynamic high resolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from mix_core.errors import BadInputError
from mix_core.models.common.geometry import squared

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Of ImageNet's colours; fixed in the published code, whatever preprocessor_config.json says."""


@lru_cache(maxsize=16)
def grids(min_tiles: int, max_tiles: int) -> tuple[tuple[int, int], ...]:
    """All (columns, rows) of min_tiles to max_tiles tiles, the fewest first.

    The order among grids of as many tiles decides between a wider and a taller one that are equally far off
    (possible from two tiles on). The published code has that of CPython's set of these pairs, made in this
    order; the hash of whole numbers is fixed, so it is the same everywhere.
    """
    found = {
        (i, j)
        for n in range(min_tiles, max_tiles + 1)
        for i in range(1, n + 1)
        for j in range(1, n + 1)
        if min_tiles <= i * j <= max_tiles
    }
    return tuple(sorted(found, key=lambda grid: grid[0] * grid[1]))


def best_grid(width: int, height: int, *, side: int, min_tiles: int, max_tiles: int) -> tuple[int, int]:
    """The grid (columns, rows) whose ratio of sides is nearest to the picture's.

    Of grids with the same ratio the larger one is taken as long as the picture has more than half its pixels;
    the same holds of a wider and a taller one that are equally far off.
    """
    ratio, area = width / height, width * height
    best, nearest = (1, 1), float("inf")
    for columns, rows in grids(min_tiles, max_tiles):
        distance = abs(ratio - columns / rows)
        if distance < nearest or (distance == nearest and area > 0.5 * side * side * columns * rows):
            best, nearest = (columns, rows), distance
    return best


@dataclass(frozen=True, kw_only=True)
class Tiler:
    """How pictures are cut; the values are those of config.json."""

    side: int
    """Side of a tile, pixels."""
    min_tiles: int
    """`min_dynamic_patch`"""
    max_tiles: int
    """`max_dynamic_patch`; 1 where `dynamic_image_size` is off."""
    thumbnail: bool
    """Whether the whole picture follows its tiles, where there are several."""

    pad_to_square: bool = False
    """Whether bars of the mean colour make a picture square first; only where it is not cut."""

    def __post_init__(self) -> None:
        if not 1 <= self.min_tiles <= self.max_tiles:
            raise BadInputError(
                f"a picture shall have {self.min_tiles} to {self.max_tiles} tiles; expected 1 <= fewest <= "
                f"most (a tile has {self.side} x {self.side} pixels)"
            )

    def grid(self, width: int, height: int) -> tuple[int, int]:
        """(columns, rows) for a picture of this size."""
        return best_grid(width, height, side=self.side, min_tiles=self.min_tiles, max_tiles=self.max_tiles)

    def target_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) in pixels of all tiles together."""
        columns, rows = self.grid(width, height)
        return rows * self.side, columns * self.side

    def tiles(self, image: Image.Image) -> np.ndarray:
        """An RGB picture -> its tiles (N, S, S, 3) uint8, row by row, then the thumbnail if there is one."""
        if self.pad_to_square:
            image = squared(image, MEAN)
        height, width = self.target_size(image.height, image.width)
        S, rows, columns = self.side, height // self.side, width // self.side
        resized = _resized(image, width, height)
        cut = resized.reshape(rows, S, columns, S, 3).swapaxes(1, 2).reshape(rows * columns, S, S, 3)
        if self.thumbnail and len(cut) > 1:
            cut = np.concatenate([cut, _resized(image, S, S)[None]])
        return np.ascontiguousarray(cut)


def _resized(image: Image.Image, width: int, height: int) -> np.ndarray:
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image)
