"""Pictures to tiles: CLIP's way (LLaVA-1.5) and any resolution (LLaVA-1.6). numpy and Pillow only.

Shapes: I tiles, n pictures, side of a tile in pixels.
Tiles stay as bytes (I, side, side, 3) until a batch is put together. Values are those of transformers'
CLIPImageProcessor, LlavaImageProcessor and LlavaNextImageProcessor, which resize with Pillow too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from mix_core.errors import BadInputError
from mix_core.models.common.geometry import normalized, squared
from mix_core.models.llava.config import PINPOINTS, Size, pinpoints_of
from mix_core.models.llava.geometry import best_pinpoint, fitted_size

_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_FILE = "preprocessor_config.json"


@dataclass(frozen=True, kw_only=True)
class ImageProcessor:
    """What preprocessor_config.json says about pictures."""

    side: int
    """Side of a tile, pixels."""
    pinpoints: tuple[Size, ...] | None = None
    """Sizes (height, width) that a picture is brought to and cut into tiles; None: one tile a picture."""
    keep_aspect: bool = True
    """One tile: whether the shorter edge is brought to `side` and the middle cut out, or both edges are."""
    pad_to_square: bool = False
    """One tile: whether bars of the mean colour make the picture square first, as LLaVA-1.5 was trained."""
    image_mean: tuple[float, ...] = _CLIP_MEAN
    image_std: tuple[float, ...] = _CLIP_STD
    rescale_factor: float | None = 1 / 255
    """None leaves 0-255."""
    do_normalize: bool = True
    resample: int = int(Image.Resampling.BICUBIC)

    def __post_init__(self) -> None:
        edges = [edge for size in self.pinpoints or () for edge in size]
        if self.side < 1 or any(edge % self.side or edge < 1 for edge in edges):
            raise BadInputError(
                f"{_FILE} has tiles of {self.side} pixels and image_grid_pinpoints {self.pinpoints}; sides "
                "of pinpoints must be multiples of the tile's"
            )
        if len(self.image_mean) != 3 or len(self.image_std) != 3:
            raise BadInputError(f"{_FILE} needs three values in image_mean and in image_std")

    @classmethod
    def from_dict(cls, config: dict[str, Any], *, anyres: bool) -> ImageProcessor:
        """Read preprocessor_config.json's content. Raises BadInputError."""
        size, crop = (_edges(config.get(key), key) for key in ("size", "crop_size"))
        keep_aspect = "shortest_edge" in size
        side = size.get("shortest_edge", size.get("height"))
        if not config.get("do_resize", True) or {side} != set(size.values()):
            raise BadInputError(
                f"{_FILE} has size {config.get('size')!r} and do_resize {config.get('do_resize', True)}; "
                "expected to resize to one side"
            )
        cropped = config.get("do_center_crop", True)
        if (keep_aspect and not cropped) or (cropped and {side} != set(crop.values())):
            raise BadInputError(
                f"{_FILE} has size {config.get('size')!r}, crop_size {config.get('crop_size')!r} and "
                f"do_center_crop {cropped}; expected one side, and to crop where only shortest_edge is given"
            )
        values = {key: tuple(config[key]) for key in ("image_mean", "image_std") if key in config}
        values |= {key: config[key] for key in ("do_normalize", "resample") if key in config}
        rescale = config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else None
        return cls(
            side=side,
            keep_aspect=keep_aspect,
            pinpoints=pinpoints_of(config.get("image_grid_pinpoints") or PINPOINTS) if anyres else None,
            pad_to_square=bool(config.get("do_pad", False)) and not anyres,
            rescale_factor=rescale,
            **values,
        )

    def to_dict(self) -> dict[str, Any]:
        """The keys of preprocessor_config.json that this holds."""
        name = "CLIPImageProcessor" if self.pinpoints is None else "LlavaNextImageProcessor"
        both = {"height": self.side, "width": self.side}
        written = {
            "image_processor_type": "LlavaImageProcessor" if self.pad_to_square else name,
            "size": {"shortest_edge": self.side} if self.keep_aspect else both,
            "crop_size": both,
            "do_resize": True,
            "do_center_crop": True,
            "do_convert_rgb": True,
            "image_mean": list(self.image_mean),
            "image_std": list(self.image_std),
            "do_rescale": self.rescale_factor is not None,
            "rescale_factor": self.rescale_factor or 1 / 255,
            "do_normalize": self.do_normalize,
            "resample": self.resample,
        }
        if self.pinpoints is not None:
            return {
                **written,
                "do_pad": True,
                "image_grid_pinpoints": [list(size) for size in self.pinpoints],
            }
        return {**written, "do_pad": True} if self.pad_to_square else written

    def target_size(self, height: int, width: int) -> Size:
        """(height, width) that a picture is brought to, before it is padded to tiles or cropped to one."""
        if self.pinpoints is not None:
            return fitted_size((height, width), best_pinpoint((height, width), self.pinpoints))
        if not self.keep_aspect or self.pad_to_square:
            return self.side, self.side
        if width <= height:
            return int(self.side * height / width), self.side
        return self.side, int(self.side * width / height)

    def tiles(self, image: Image.Image) -> np.ndarray:
        """An RGB picture -> (I, side, side, 3) uint8; of several tiles the first shows all of it."""
        if self.pinpoints is None:
            return self._one(image)[None]
        height, width = best_pinpoint((image.height, image.width), self.pinpoints)
        fitted = self._resized(image, self.target_size(image.height, image.width))
        canvas = np.zeros((height, width, 3), np.uint8)
        top, left = (height - fitted.height) // 2, (width - fitted.width) // 2
        canvas[top : top + fitted.height, left : left + fitted.width] = np.asarray(fitted)
        down, across = height // self.side, width // self.side
        cut = canvas.reshape(down, self.side, across, self.side, 3).transpose(0, 2, 1, 3, 4)
        whole = np.asarray(self._resized(image, (self.side, self.side)))
        return np.concatenate([whole[None], cut.reshape(-1, self.side, self.side, 3)])

    def normalize(self, tiles: np.ndarray) -> np.ndarray:
        """Bytes of `tiles` (I, side, side, 3) -> pixel_values (I, 3, side, side) float32."""
        return normalized(tiles, self._values)

    @cached_property
    def _values(self) -> np.ndarray:
        """Normalised value of each byte (3, 256), computed as transformers does, in its precisions."""
        levels = np.arange(256, dtype=np.float64)
        scaled = (levels if self.rescale_factor is None else levels * self.rescale_factor).astype(np.float32)
        if not self.do_normalize:
            return np.stack([scaled] * 3)
        mean, std = (np.array(v, np.float32)[:, None] for v in (self.image_mean, self.image_std))
        return (scaled - mean) / std

    def _one(self, image: Image.Image) -> np.ndarray:
        if self.pad_to_square:
            image = squared(image, self.image_mean)
        image = self._resized(image, self.target_size(image.height, image.width))
        left, top = (image.width - self.side) // 2, (image.height - self.side) // 2
        return np.asarray(image.crop((left, top, left + self.side, top + self.side)))

    def _resized(self, image: Image.Image, size: Size) -> Image.Image:
        height, width = size
        return image.resize((width, height), Image.Resampling(self.resample))


def _edges(value: Any, key: str) -> dict[str, int]:
    """A size in any of its published forms: a number, {"shortest_edge"} or {"height", "width"}."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = {"shortest_edge": value} if key == "size" else {"height": value, "width": value}
    keys = set(value) if isinstance(value, dict) else set()
    if not (keys == {"shortest_edge"} or keys == {"height", "width"}) or any(
        not isinstance(edge, int) or edge < 1 for edge in value.values()
    ):
        raise BadInputError(
            f"{_FILE} has {key} = {value!r}, expected {{'shortest_edge': N}} or {{'height': N, 'width': N}}"
        )
    return value
