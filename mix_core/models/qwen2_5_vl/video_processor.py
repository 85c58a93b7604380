"""Videos to patches: which frames are kept, how large they are, how many seconds a patch covers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mix_core.data.video import FrameRules, load_video
from mix_core.models.qwen2_5_vl.image_processor import ImageProcessor, smart_resize

MAX_VIDEO_CELLS = 115_200
"""Most cells of a whole video (0.9 of the 128,000 positions of the published models, Qwen's reference limit).

A long video gets smaller frames rather than more tokens than the decoder can take."""


@dataclass(frozen=True, kw_only=True)
class VideoProcessor:
    """What video_preprocessor_config.json says about videos, or preprocessor_config.json in its absence."""

    frames: ImageProcessor
    """Sizes and normalisation of each frame."""
    rules: FrameRules = field(default_factory=FrameRules)
    max_cells: int = MAX_VIDEO_CELLS

    @classmethod
    def from_dict(cls, config: dict[str, Any], **defaults: Any) -> VideoProcessor:
        frames = ImageProcessor.from_dict(config, **defaults)
        rules = FrameRules(multiple=frames.temporal_patch_size)
        given = {
            key: config[key] for key in ("min_frames", "max_frames", "fps") if config.get(key) is not None
        }
        return cls(frames=frames, rules=replace(rules, **given))

    def to_dict(self) -> dict[str, Any]:
        """The keys of video_preprocessor_config.json that this holds."""
        kept = {"min_frames": self.rules.min_frames, "max_frames": self.rules.max_frames}
        if self.rules.fps is not None:
            kept["fps"] = self.rules.fps
        return {**self.frames.to_dict(), **kept}

    def target_size(self, frames: int, height: int, width: int) -> tuple[int, int]:
        """(height, width) that each of ``frames`` frames is brought to."""
        limits = self.frames
        steps = -(-frames // limits.temporal_patch_size)
        most = min(limits.max_pixels, max(self.max_cells // steps, 1) * limits.cell**2)
        height, width = limits.within_side(height, width)
        return smart_resize(
            height, width, factor=limits.cell, min_pixels=min(limits.min_pixels, most), max_pixels=most
        )

    def patches(
        self,
        source: Any,
        *,
        fps: float | None = None,
        num_frames: int | None = None,
        allow_private_urls: bool = False,
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """One video -> (patches (P, C*t*p*p) uint8, grid (3,) int64, seconds that a step of the grid covers).

        ``source`` as in `mix_core.data.video.load_video`; ``fps`` or ``num_frames`` overrides the folder's.
        """
        rules = self.rules
        if fps is not None or num_frames is not None:
            rules = replace(rules, fps=fps, num_frames=num_frames)
        fit = self.target_size if self.frames.do_resize else None
        video = load_video(source, rules, fit=fit, allow_private_urls=allow_private_urls)
        if fit is None:
            self.frames.target_size(*video.frames_THWC.shape[1:3])
        patches, grid = self.frames.frame_patches(video.frames_THWC)
        return patches, grid, self.frames.temporal_patch_size / video.fps
