"""A feature map through a network tile by tile, in memory that does not grow with the map.

Tiles overlap, and where they do a picture goes over from one to the next along a ramp. Norms see one tile
only, so the result differs a little from that of the whole map; it is what diffusers' tiling gives.

Shapes: B batch, C channels, H and W rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import paddle
from paddle import Tensor


@dataclass(frozen=True)
class Tiles:
    pixels: int
    """Side of a tile of the picture."""
    latents: int
    """Side of a tile of the latents."""
    overlap: float
    """Share of a tile that the next one repeats."""


def in_tiles(
    x_BCHW: Tensor, network: Callable[[Tensor], Tensor], side: int, side_out: int, overlap: float
) -> Tensor:
    """``network(x)`` from tiles of `side` x `side`, which the network turns into `side_out` x `side_out`.

    Holds the tiles of one row and the result.
    """
    H, W = x_BCHW.shape[2:]
    step = max(1, int(side * (1 - overlap)))
    ramp = int(side_out * overlap)
    kept = side_out - ramp
    rows: list[Tensor] = []
    above: list[Tensor] = []
    for top in range(0, H, step):
        current: list[Tensor] = []
        for place, left in enumerate(range(0, W, step)):
            tile = network(x_BCHW[:, :, top : top + side, left : left + side])
            tile = blended(above[place], tile, ramp, axis=2) if above else tile
            tile = blended(current[-1], tile, ramp, axis=3) if current else tile
            current.append(tile)
        rows.append(paddle.concat([tile[:, :, :kept, :kept] for tile in current], axis=3))
        above = current
    return paddle.concat(rows, axis=2)


def blended(before: Tensor, tile: Tensor, ramp: int, *, axis: int) -> Tensor:
    """The tile, whose first `ramp` rows (axis 2) or columns (3) go over from the last ones of `before`."""
    ramp = min(before.shape[axis], tile.shape[axis], ramp)
    if ramp == 0:
        return tile
    shape = [1, 1, ramp, 1] if axis == 2 else [1, 1, 1, ramp]
    share = paddle.to_tensor((np.arange(ramp, dtype=np.float32) / ramp).reshape(shape)).astype(tile.dtype)
    old = paddle.slice(before, [axis], [before.shape[axis] - ramp], [before.shape[axis]])
    mixed = old * (1.0 - share) + paddle.slice(tile, [axis], [0], [ramp]) * share
    if ramp == tile.shape[axis]:
        return mixed
    return paddle.concat([mixed, paddle.slice(tile, [axis], [ramp], [tile.shape[axis]])], axis=axis)
