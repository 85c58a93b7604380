"""Pictures and videos of a message list or a sample: found, cut to patches, counted against the pad tokens.

Shapes: P patches, n pictures, m videos, p patch side, D = 3 * temporal_patch * p * p.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mix_core.data.images import load_image
from mix_core.errors import DataError
from mix_core.models.common.collate import Batch, Sample
from mix_core.models.qwen2_5_vl.geometry import as_grids
from mix_core.models.qwen2_5_vl.image_processor import ImageProcessor
from mix_core.models.qwen2_5_vl.video_processor import VideoProcessor

Counts = dict[int, list[int]]
"""For each pad token's id, how many of it every picture or video takes."""


def find_visuals(messages: list[dict[str, Any]]) -> tuple[list[Any], list[dict[str, Any]]]:
    """Sources of the pictures, and entries of the videos, in the order in which the messages name them."""
    images: list[Any] = []
    videos: list[dict[str, Any]] = []
    for message in messages:
        content = message.get("content")
        for part in content if isinstance(content, list) else []:
            kinds = ("image", "video", "image_url")
            kind = part.get("type") or next((key for key in kinds if key in part), "text")
            if kind == "image_url":
                given = part["image_url"]
                images.append(given["url"] if isinstance(given, dict) else given)
            elif kind == "image":
                images.append(_source(part, "image"))
            elif kind == "video":
                videos.append({**part, "video": _source(part, "video")})
    return images, videos


@dataclass(frozen=True)
class VisionInputs:
    """What the model takes of pictures and videos."""

    images: ImageProcessor
    videos: VideoProcessor
    image_token_id: int
    video_token_id: int
    timed: bool = True
    """Whether the model is told how long a step of a video lasts, as second_per_grid_ts."""
    allow_private_urls: bool = False

    def cut(self, images: Sequence[Any], videos: Sequence[Any], **video_options: Any) -> Sample:
        """Patches and grids, as bytes.

        Keys only where there is something: image_patches (P, 3*p*p) uint8 and image_grid_thw (n, 3);
        video_patches (P, D) uint8, video_grid_thw (m, 3) and second_per_grid_ts (m,) float32. A video is a
        source, or {"video": source, "fps": ... or "num_frames": ...}.
        """
        sample: Sample = {}
        if images:
            loaded = [load_image(image, allow_private_urls=self.allow_private_urls) for image in images]
            sample["image_patches"], sample["image_grid_thw"] = self.images.patches(loaded)
        if videos:
            patches, grids, seconds = zip(*(self._cut_video(video, video_options) for video in videos))
            sample["video_patches"] = np.concatenate(patches)
            sample["video_grid_thw"] = np.stack(grids)
            if self.timed:
                sample["second_per_grid_ts"] = np.array(seconds, np.float32)
        return sample

    def arrays(self, samples: Sequence[Sample]) -> Batch:
        """Join and normalise what the samples have: pixel_values (P, D) float32 and the like, grids."""
        batch: Batch = {}
        for patches, values, cutter in (
            ("image_patches", "pixel_values", self.images),
            ("video_patches", "pixel_values_videos", self.videos.frames),
        ):
            found = [sample[patches] for sample in samples if patches in sample]
            if found:
                batch[values] = cutter.normalize(np.concatenate(found))
        for key in ("image_grid_thw", "video_grid_thw", "second_per_grid_ts"):
            found = [sample[key] for sample in samples if key in sample]
            if found:
                batch[key] = np.concatenate(found)
        return batch

    def repeats(self, rows: Sequence[list[int]], sample: Sample) -> list[np.ndarray]:
        """How often each token of ``rows`` stands in the model's input: the pad tokens, once for each cell.

        Raises DataError where pad tokens and pictures or videos differ in number.
        """
        counts = self._counts(sample)
        for token, kind in ((self.image_token_id, "image"), (self.video_token_id, "video")):
            places, given = sum(row.count(token) for row in rows), len(counts[token])
            if places != given:
                raise DataError(
                    f"the text has {places} {kind} placeholder(s) and {given} {kind}(s) were given; "
                    "the numbers must be equal"
                )
        return [_repeats(np.array(row, np.int64), counts) for row in rows]

    def _counts(self, sample: Sample) -> Counts:
        cell = self.images.merge_size**2
        grids = {self.image_token_id: "image_grid_thw", self.video_token_id: "video_grid_thw"}
        return {
            token: [int(t * h * w) // cell for t, h, w in as_grids(sample.get(key))]
            for token, key in grids.items()
        }

    def _cut_video(self, video: Any, options: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, float]:
        entry = video if isinstance(video, dict) else {"video": video}
        own = {key: entry[key] for key in ("fps", "num_frames") if entry.get(key) is not None}
        return self.videos.patches(
            entry["video"], **(own or options), allow_private_urls=self.allow_private_urls
        )


def _repeats(row: np.ndarray, counts: Counts) -> np.ndarray:
    """Takes from the front of ``counts``."""
    repeats = np.ones(len(row), np.int64)
    for token, found in counts.items():
        places = np.flatnonzero(row == token)
        repeats[places] = found[: len(places)]
        del found[: len(places)]
    return repeats


def _source(part: dict[str, Any], kind: str) -> Any:
    for key in (kind, "url", "path"):
        if part.get(key) is not None:
            return part[key]
    raise DataError(
        f"a message part of type {kind} names no {kind}; expected a key {kind!r}, 'path' or 'url'"
    )
