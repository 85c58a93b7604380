"""Pictures and frames to patches: sizes, cutting, normalisation. numpy and Pillow only.

Shapes: N pictures, T frames, H height, W width, C = 3 colours, P patches, p patch side, t frames in a patch.
A patch stays as bytes (P, C*p*p or C*t*p*p) until a batch is put together: that is an eighth of the final
size, and one table look-up normalises the whole batch. Values equal those of transformers' PIL processor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from mix_core.errors import BadInputError, DataError

MAX_ASPECT_RATIO = 200
"""Longer side over shorter side; Qwen's published limit."""

_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def smart_resize(
    height: int, width: int, *, factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """Size with sides that are multiples of ``factor``, near the given one, of min_pixels to max_pixels.

    Qwen2-VL's rule as transformers 5.3.0 has it (round half to even; no lower bound before the limits apply).
    Raises DataError for a longer side of more than 200 times the shorter one.
    """
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise DataError(
            f"an image of {width} x {height} pixels has a side ratio of "
            f"{max(height, width) / max(1, min(height, width)):.4g}, at most {MAX_ASPECT_RATIO} is possible"
        )
    new_height, new_width = round(height / factor) * factor, round(width / factor) * factor
    if new_height * new_width > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        new_height = max(factor, math.floor(height / shrink / factor) * factor)
        new_width = max(factor, math.floor(width / shrink / factor) * factor)
    elif new_height * new_width < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        new_height = math.ceil(height * grow / factor) * factor
        new_width = math.ceil(width * grow / factor) * factor
    return max(factor, new_height), max(factor, new_width)


@dataclass(frozen=True, kw_only=True)
class ImageProcessor:
    """What preprocessor_config.json says about pictures."""

    patch_size: int
    """Side of a patch, pixels."""
    temporal_patch_size: int
    """Frames in a patch; a picture is repeated."""
    merge_size: int
    """Side of a cell (one token of the decoder) in patches."""
    min_pixels: int
    max_pixels: int
    """Least and greatest number of pixels after resizing."""
    longest_side: int | None = None
    """A picture with a longer side is shrunk to it, in pixels, before those limits apply. A key of a run: no
    published file has it."""
    image_mean: tuple[float, ...] = _CLIP_MEAN
    image_std: tuple[float, ...] = _CLIP_STD
    rescale_factor: float | None = 1 / 255
    """None leaves 0-255."""
    do_resize: bool = True
    do_normalize: bool = True
    resample: int = int(Image.Resampling.BICUBIC)

    def __post_init__(self) -> None:
        for name in ("patch_size", "temporal_patch_size", "merge_size", "min_pixels", "max_pixels"):
            value = getattr(self, name)
            if (
                not isinstance(value, int)
                or isinstance(value, bool)
                or value < (0 if name == "min_pixels" else 1)
            ):
                raise BadInputError(
                    f"preprocessor_config.json has {name} = {value!r}, expected a whole number > 0"
                )
        if self.min_pixels > self.max_pixels:
            raise BadInputError(f"min_pixels {self.min_pixels} is more than max_pixels {self.max_pixels}")
        if self.longest_side is not None and not self.do_resize:
            raise BadInputError(
                "preprocessor_config.json has do_resize off, so no resolution can be asked for"
            )
        if len(self.image_mean) != 3 or len(self.image_std) != 3:
            raise BadInputError("preprocessor_config.json needs three values in image_mean and in image_std")

    @classmethod
    def from_dict(cls, config: dict[str, Any], **defaults: Any) -> ImageProcessor:
        """Read preprocessor_config.json's content; ``defaults`` stand in for absent keys."""
        config = {**defaults, **{key: value for key, value in config.items() if value is not None}}
        size = config.get("size") or {}
        values = {
            "min_pixels": config.get("min_pixels", size.get("shortest_edge")),
            "max_pixels": config.get("max_pixels", size.get("longest_edge")),
            "rescale_factor": config.get("rescale_factor", 1 / 255)
            if config.get("do_rescale", True)
            else None,
        }
        for key in ("patch_size", "temporal_patch_size", "merge_size"):
            values[key] = config.get(key)
        for key in ("image_mean", "image_std"):
            given = config.get(key)
            if given is not None:
                values[key] = tuple(given) if isinstance(given, (list, tuple)) else (given,) * 3
        values |= {key: config[key] for key in ("do_resize", "do_normalize", "resample") if key in config}
        missing = sorted(key for key, value in values.items() if value is None and key != "rescale_factor")
        if missing:
            raise BadInputError(f"preprocessor_config.json lacks {', '.join(missing)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The keys of preprocessor_config.json that this holds."""
        return {
            "min_pixels": self.min_pixels,
            "max_pixels": self.saved_max_pixels,
            "size": {"shortest_edge": self.min_pixels, "longest_edge": self.saved_max_pixels},
            "patch_size": self.patch_size,
            "temporal_patch_size": self.temporal_patch_size,
            "merge_size": self.merge_size,
            "image_mean": list(self.image_mean),
            "image_std": list(self.image_std),
            "do_resize": self.do_resize,
            "do_rescale": self.rescale_factor is not None,
            "rescale_factor": self.rescale_factor or 1 / 255,
            "do_normalize": self.do_normalize,
            "resample": self.resample,
        }

    def within_side(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) with no side above `longest_side`, rounded down as PaddleMIX does."""
        longest = max(height, width)
        if self.longest_side is None or longest <= self.longest_side:
            return height, width
        shrink = self.longest_side / longest
        return max(1, int(height * shrink)), max(1, int(width * shrink))

    @property
    def saved_max_pixels(self) -> int:
        """`max_pixels` for a file: what `longest_side`, which files lack, leaves of it."""
        most = self.max_pixels if self.longest_side is None else min(self.max_pixels, self.longest_side**2)
        return max(most, self.min_pixels)

    @property
    def cell(self) -> int:
        """Side of a cell in pixels."""
        return self.patch_size * self.merge_size

    def target_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that a picture is brought to."""
        if self.do_resize:
            height, width = self.within_side(height, width)
            return smart_resize(
                height, width, factor=self.cell, min_pixels=self.min_pixels, max_pixels=self.max_pixels
            )
        if height % self.cell or width % self.cell:
            raise DataError(
                f"do_resize is off, so image sides must be multiples of {self.cell}, got {width} x {height}"
            )
        return height, width

    def patches(self, images: list[Image.Image]) -> tuple[np.ndarray, np.ndarray]:
        """RGB pictures -> (patches (P, C*p*p) uint8, grids (N, 3) int64: frames, rows, columns of patches).

        Pictures of one size are cut in one step.
        """
        pixels = [self._resized(image) for image in images]
        groups: dict[tuple[int, ...], list[int]] = {}
        for i, picture in enumerate(pixels):
            groups.setdefault(picture.shape, []).append(i)
        cut: list[np.ndarray] = [np.empty(0)] * len(pixels)
        for members in groups.values():
            stacked = np.stack([pixels[i] for i in members])
            for i, patches in zip(members, self._cut(stacked)):
                cut[i] = patches
        p = self.patch_size
        grids = [(1, picture.shape[0] // p, picture.shape[1] // p) for picture in pixels]
        return np.concatenate(cut), np.array(grids, np.int64)

    def frame_patches(self, frames_THWC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Frames of the final size -> (patches (P, C*t*p*p) uint8, grid (3,) int64).

        The last frame is repeated until a patch is full.
        """
        t, p, m = self.temporal_patch_size, self.patch_size, self.merge_size
        if missing := -len(frames_THWC) % t:
            frames_THWC = np.concatenate([frames_THWC, np.repeat(frames_THWC[-1:], missing, axis=0)])
        T, H, W, _ = frames_THWC.shape
        grid = (T // t, H // p, W // p)
        split = frames_THWC.reshape(T // t, t, H // (p * m), m, p, W // (p * m), m, p, 3)
        patches = split.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(math.prod(grid), 3 * t * p * p)
        return patches, np.array(grid, np.int64)

    def normalize(self, patches: np.ndarray) -> np.ndarray:
        """Bytes of `patches` or `frame_patches` -> pixel_values (P, C*t*p*p) float32."""
        t, p = self.temporal_patch_size, self.patch_size
        per_colour = patches.reshape(len(patches), 3, -1)
        repeats = t * p * p // per_colour.shape[-1]
        values = np.empty((len(patches), 3, repeats, per_colour.shape[-1]), np.float32)
        for colour in range(3):
            values[:, colour] = np.take(self._table[colour], per_colour[:, colour])[:, None]
        return values.reshape(len(patches), 3 * t * p * p)

    @cached_property
    def _table(self) -> np.ndarray:
        """(C, 256) float32: the value of each byte, computed as transformers does, in its precisions."""
        levels = np.arange(256, dtype=np.float64)
        scaled = (levels if self.rescale_factor is None else levels * self.rescale_factor).astype(np.float32)
        if not self.do_normalize:
            return np.stack([scaled] * 3)
        mean, std = (np.array(v, np.float32)[:, None] for v in (self.image_mean, self.image_std))
        return (scaled - mean) / std

    def _resized(self, image: Image.Image) -> np.ndarray:
        height, width = self.target_size(image.height, image.width)
        if (image.width, image.height) != (width, height):
            image = image.resize((width, height), Image.Resampling(self.resample))
        return np.asarray(image)

    def _cut(self, pixels_NHWC: np.ndarray) -> np.ndarray:
        """(N, patches of a picture, C*p*p), the patches cell by cell."""
        N, H, W, _ = pixels_NHWC.shape
        p, m = self.patch_size, self.merge_size
        split = pixels_NHWC.reshape(N, H // (p * m), m, p, W // (p * m), m, p, 3)
        return split.transpose(0, 1, 4, 2, 5, 7, 3, 6).reshape(N, (H // p) * (W // p), 3 * p * p)
