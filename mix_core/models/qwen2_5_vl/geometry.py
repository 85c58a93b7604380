"""Where every patch and token stands: computed on the host with numpy, kept by grid. Qwen2-VL counts alike.

Shapes: P patches, C cells (merge x merge patches, one token of the decoder each), B batch, S sequence.
A grid (t, h, w) counts patches; the processor orders the patches of a frame cell by cell.
The definition is the one Qwen2.5-VL was trained with; transformers 5.3.0 departs from it (see README.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from mix_core.errors import DataError

Grid = tuple[int, int, int]


@dataclass(frozen=True)
class FramePlan:
    """The patches of a list of grids, frame by frame as the processor orders them."""

    cu_frames: np.ndarray
    """Ends of the frames in patches, with a leading 0, int32."""
    row_column_P2: np.ndarray
    """Row and column of each patch in its frame."""


@dataclass(frozen=True)
class VisionPlan(FramePlan):
    """And the order in which a tower with windows works."""

    window_order_C: np.ndarray
    """Cell at each place of the window order; windows of equal size stand together."""
    frame_order_C: np.ndarray
    """The inverse: place in the window order of each cell in the processor's order."""
    cu_windows: np.ndarray
    """Ends of the windows in patches, with a leading 0, int32."""

    @property
    def windows_are_frames(self) -> bool:
        """Whether the two orders and their segments are the same, so that no cell has to move."""
        return len(self.cu_windows) == len(self.cu_frames) and bool((np.diff(self.window_order_C) == 1).all())


@lru_cache(maxsize=512)
def _patch_positions(h: int, w: int, merge: int) -> np.ndarray:
    """Row and column (h * w, 2) of one frame's patches, cell by cell."""
    rows, columns = np.indices((h, w))
    cells = np.stack([rows, columns], axis=-1).reshape(h // merge, merge, w // merge, merge, 2)
    return cells.transpose(0, 2, 1, 3, 4).reshape(-1, 2)


@lru_cache(maxsize=512)
def _windows(h_cells: int, w_cells: int, side: int) -> list[np.ndarray]:
    """Cells of each window of one frame; those at the right and lower edge may be smaller."""
    cells = np.arange(h_cells * w_cells).reshape(h_cells, w_cells)
    starts = [(i, j) for i in range(0, h_cells, side) for j in range(0, w_cells, side)]
    return [cells[i : i + side, j : j + side].reshape(-1) for i, j in starts]


@lru_cache(maxsize=64)
def frame_plan(grids: tuple[Grid, ...], merge: int) -> FramePlan:
    """Frames of these grids, places of their patches. Raises DataError for a grid without whole cells."""
    frames: list[int] = []
    positions: list[np.ndarray] = []
    for t, h, w in grids:
        if h % merge or w % merge or min(t, h, w) < 1:
            raise DataError(
                f"grid {(t, h, w)} must have height and width that are multiples of {merge}, all > 0"
            )
        frames.extend([h * w] * t)
        positions.append(np.tile(_patch_positions(h, w, merge), (t, 1)))
    return FramePlan(cu_frames=_ends(np.array(frames)), row_column_P2=np.concatenate(positions))


@lru_cache(maxsize=64)
def vision_plan(grids: tuple[Grid, ...], merge: int, window_cells: int) -> VisionPlan:
    """Plan the tower's work for these grids; `window_cells` is the side of a window in cells."""
    frames = frame_plan(grids, merge)
    windows: list[np.ndarray] = []
    first_cell = 0
    for t, h, w in grids:
        of_frame = _windows(h // merge, w // merge, window_cells)
        for _ in range(t):
            windows.extend(window + first_cell for window in of_frame)
            first_cell += (h // merge) * (w // merge)
    windows.sort(key=len, reverse=True)
    order = np.concatenate(windows)
    inverse = np.empty_like(order)
    inverse[order] = np.arange(len(order))
    sizes = np.array([len(window) for window in windows]) * merge * merge
    return VisionPlan(
        window_order_C=order,
        frame_order_C=inverse,
        cu_windows=_ends(sizes),
        cu_frames=frames.cu_frames,
        row_column_P2=frames.row_column_P2,
    )


def _ends(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


@lru_cache(maxsize=512)
def _vision_block(
    grid: Grid, merge: int, seconds_per_step: float, tokens_per_second: float | None
) -> np.ndarray:
    """Positions (3, cells) of one picture or video, from 0: time, row, column."""
    t, h, w = grid[0], grid[1] // merge, grid[2] // merge
    steps = np.arange(t, dtype=np.float32)
    if tokens_per_second is not None:
        steps = steps * np.float32(seconds_per_step) * np.float32(tokens_per_second)
    time = np.repeat(steps.astype(np.int64), h * w)
    row = np.tile(np.repeat(np.arange(h), w), t)
    column = np.tile(np.arange(w), t * h)
    return np.stack([time, row, column])


def mrope_positions(
    input_ids_S: np.ndarray,
    images: list[Grid],
    videos: list[Grid],
    seconds_per_step: list[float],
    *,
    image_token_id: int,
    video_token_id: int,
    merge: int,
    tokens_per_second: float | None,
) -> np.ndarray:
    """Positions (3, S) of one sequence without padding. Takes its grids from the front of the lists.

    A text token advances all three axes by one; a picture or video starts at the next position and the text
    after it goes on at its greatest position plus one. Without `tokens_per_second` a step of a video is one
    position, however long it lasts. Raises DataError where pad tokens and grids differ.
    """
    positions = np.empty((3, len(input_ids_S)), np.int64)
    is_vision = (input_ids_S == image_token_id) | (input_ids_S == video_token_id)
    starts = np.flatnonzero(is_vision)
    at, next_position = 0, 0
    while len(starts):
        start = int(starts[0])
        positions[:, at:start] = np.arange(next_position, next_position + start - at)
        next_position += start - at
        token = int(input_ids_S[start])
        kind, grids = ("image", images) if token == image_token_id else ("video", videos)
        if not grids:
            raise DataError(
                f"token {start} of the text is a pad token for {kind}s, but no {kind} grid is left for it"
            )
        grid = grids.pop(0)
        seconds = seconds_per_step.pop(0) if kind == "video" and seconds_per_step else 1.0
        block = _vision_block(grid, merge, float(seconds), tokens_per_second)
        at = start + block.shape[1]
        found = int((input_ids_S[start:at] == token).sum())
        if found != block.shape[1]:
            raise DataError(
                f"{kind} grid {grid} needs {block.shape[1]} {kind} pad tokens in a row, found {found}"
            )
        positions[:, start:at] = block + next_position
        next_position += int(block.max()) + 1
        starts = starts[starts >= at]
    positions[:, at:] = np.arange(next_position, next_position + len(input_ids_S) - at)
    return positions


def as_grids(grid_thw: np.ndarray | None) -> list[Grid]:
    """Rows of a (n, 3) array as tuples of ints; none for None."""
    if grid_thw is None:
        return []
    return [tuple(row) for row in np.asarray(grid_thw).astype(np.int64).reshape(-1, 3).tolist()]


def batch_positions(
    input_ids_BS: np.ndarray,
    attention_mask_BS: np.ndarray | None,
    image_grid_thw: np.ndarray | None,
    video_grid_thw: np.ndarray | None,
    second_per_grid_ts: np.ndarray | None,
    *,
    cu_seqlens: np.ndarray | None = None,
    **constants: Any,
) -> np.ndarray:
    """Positions (3, B, S) of a padded batch, or of one packed row with `cu_seqlens`; 0 at padding."""
    images, videos = as_grids(image_grid_thw), as_grids(video_grid_thw)
    seconds = [] if second_per_grid_ts is None else np.asarray(second_per_grid_ts).astype(float).tolist()
    positions = np.zeros((3, *input_ids_BS.shape), np.int64)
    for b, ids in enumerate(input_ids_BS):
        if cu_seqlens is not None:
            for start, end in zip(cu_seqlens[:-1].tolist(), cu_seqlens[1:].tolist()):
                positions[:, b, start:end] = mrope_positions(
                    ids[start:end], images, videos, seconds, **constants
                )
            continue
        kept = slice(None) if attention_mask_BS is None else attention_mask_BS[b].astype(bool)
        positions[:, b, kept] = mrope_positions(ids[kept], images, videos, seconds, **constants)
    if images or videos:
        raise DataError(f"{len(images)} image and {len(videos)} video grids have no pad tokens in the text")
    return positions
