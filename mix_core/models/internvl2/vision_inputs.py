"""Pictures and videos of a rendered text: loaded, cut to tiles, counted against their placeholders.

Shapes: N tiles, S side of a tile in pixels, v pictures and frames.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mix_core.data.images import load_image
from mix_core.data.video import FrameRules, load_video
from mix_core.errors import DataError
from mix_core.models.common.collate import Batch, Sample
from mix_core.models.common.geometry import byte_values, normalized
from mix_core.models.internvl2.chat_templates import IMAGE, VIDEO, frames_text
from mix_core.models.internvl2.tiling import MEAN, STD, Tiler

_PLACEHOLDER = re.compile(f"{re.escape(IMAGE)}|{re.escape(VIDEO)}")
FRAMES = FrameRules(num_frames=8, middles=True, min_frames=1, multiple=1)
"""Of a video file: the middle frames of eight stretches, as the published examples take them."""


@dataclass(frozen=True)
class Expanded:
    """Texts whose videos are written out as frames, and the tiles of everything seen in them."""

    texts: list[str]
    moved: list[Callable[[int], int]]
    """For each text: a place in it as it was before -> the place now."""
    sample: Sample
    """tiles (N, S, S, 3) uint8 and tile_counts (v,) int64, in the order of the texts; empty without any."""


@dataclass(frozen=True)
class VisionInputs:
    """What the model takes of pictures and videos."""

    tiler: Tiler
    frames: FrameRules = field(default=FRAMES)
    allow_private_urls: bool = False

    def expand(
        self, texts: Sequence[str], images: Sequence[Any], videos: Sequence[Any], **rules: Any
    ) -> Expanded:
        """Load what the placeholders of the texts stand for, all rows together, in order.

        `rules`: fps or num_frames for videos that do not bring their own. Raises DataError where
        placeholders and pictures or videos differ in number.
        """
        for mark, given, kind in ((IMAGE, images, "image"), (VIDEO, videos, "video")):
            places = sum(text.count(mark) for text in texts)
            if places != len(given):
                raise DataError(
                    f"the text has {places} {kind} placeholder(s) and {len(given)} {kind}(s) were given; "
                    "the numbers must be equal"
                )
        next_image, next_video = iter(images), iter(videos)
        tiles: list[np.ndarray] = []
        counts: list[int] = []
        shifts: list[tuple[int, int]] = []

        def written(match: re.Match[str]) -> str:
            if match[0] == IMAGE:
                image = load_image(next(next_image), allow_private_urls=self.allow_private_urls)
                tiles.append(self.tiler.tiles(image))
                counts.append(len(tiles[-1]))
                return IMAGE
            tiles.append(self._frames(next(next_video), rules))
            counts.extend([1] * len(tiles[-1]))
            text = frames_text(len(tiles[-1]))
            shifts.append((match.end(), len(text) - len(VIDEO)))
            return text

        expanded, moved = [], []
        for text in texts:
            shifts.clear()
            expanded.append(_PLACEHOLDER.sub(written, text))
            moved.append(_shifted_by(tuple(shifts)))
        if not tiles:
            return Expanded(expanded, moved, {})
        sample = {"tiles": np.concatenate(tiles), "tile_counts": np.array(counts, np.int64)}
        return Expanded(expanded, moved, sample)

    def arrays(self, samples: Sequence[Sample]) -> Batch:
        """pixel_values (N, 3, S, S) float32 of all samples; nothing where none has a picture."""
        found = [sample["tiles"] for sample in samples if "tiles" in sample]
        return {"pixel_values": normalized(np.concatenate(found), byte_values(MEAN, STD))} if found else {}

    def _frames(self, video: Any, options: dict[str, Any]) -> np.ndarray:
        """Frames (T, S, S, 3) uint8: each is one tile, brought to its size whatever its ratio of sides."""
        entry = video if isinstance(video, dict) else {"video": video}
        wanted = {key: entry[key] for key in ("fps", "num_frames") if entry.get(key) is not None}
        wanted = wanted or {key: value for key, value in options.items() if value is not None}
        source, rules = entry["video"], self.frames
        if wanted:
            even = wanted.get("num_frames") is not None
            rules = replace(rules, **{"fps": None, "num_frames": None, "middles": even} | wanted)
        elif not isinstance(source, (str, Path)) or Path(source).is_dir():
            rules = replace(rules, num_frames=None, middles=False)  # given frames are all kept
        size = (self.tiler.side, self.tiler.side)
        fit = lambda count, height, width: size  # noqa: E731
        found = load_video(source, rules, fit=fit, allow_private_urls=self.allow_private_urls)
        return found.frames_THWC


def _shifted_by(shifts: tuple[tuple[int, int], ...]) -> Callable[[int], int]:
    return lambda place: place + sum(longer for end, longer in shifts if end <= place)
