"""Frames of a video: from a file (through PyAV, extra ``[video]``), a folder or list of frames, or an array.

Shapes: T frames kept, H height, W width, in pixels.
The sampling rules are those of transformers' Qwen2VLVideoProcessor, computed with integers.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mix_core.data.fetch import fetch_bytes, is_url
from mix_core.data.images import MAX_IMAGE_PIXELS, load_image
from mix_core.errors import DataError

MAX_URL_BYTES = 1 << 30
URL_TIMEOUT_S = 300.0
DEFAULT_FPS = 2.0
"""Frames kept of each second of a file, and the assumed rate of a list of frames (Qwen's reference value)."""

Fit = Callable[[int, int, int], tuple[int, int]]
"""(number of frames, height, width) -> (height, width) to bring each frame to."""

_FRAME_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


@dataclass(frozen=True, kw_only=True)
class FrameRules:
    """How many frames to keep."""

    fps: float | None = None
    """Frames to keep of each second; None with ``num_frames`` None means DEFAULT_FPS."""
    num_frames: int | None = None
    """Frames to keep in all; excludes ``fps``."""
    min_frames: int = 4
    max_frames: int = 768
    multiple: int = 2
    """The number of frames is a multiple of this: the frames that one patch covers."""
    middles: bool = False
    """Whether the ``num_frames`` frames stand in the middle of equal stretches (InternVL's rule), and are
    repeated where there are too few, instead of at their beginnings."""


@dataclass(frozen=True)
class Video:
    """The frames kept of one video."""

    frames_THWC: np.ndarray
    """uint8 RGB."""
    fps: float
    """Frames kept for each second of the video."""
    indices: np.ndarray
    """Place of each kept frame in the source, from 0."""
    total_frames: int
    """Frames that the source has."""


def sample_indices(total_frames: int, source_fps: float | None, rules: FrameRules) -> np.ndarray:
    """Places of the frames to keep, evenly spread from the first on.

    Raises DataError if both a rate and a number are asked for, or more frames than there are.
    """
    if rules.fps is not None and rules.num_frames is not None:
        raise DataError(f"a video takes fps or num_frames, got both: {rules.fps} and {rules.num_frames}")
    if rules.num_frames is not None and rules.middles:
        stretch = (total_frames - 1) / rules.num_frames
        return (stretch / 2 + np.round(stretch * np.arange(rules.num_frames))).astype(np.int64)
    if rules.num_frames is not None:
        count = round(rules.num_frames / rules.multiple) * rules.multiple
        if not 0 < count <= total_frames:
            raise DataError(
                f"num_frames {rules.num_frames} (in multiples of {rules.multiple}) was asked of a video of "
                f"{total_frames} frames; ask for fewer, or give fps"
            )
    else:
        fps = DEFAULT_FPS if rules.fps is None else rules.fps
        if not fps > 0 or not source_fps or not source_fps > 0:
            raise DataError(f"cannot keep {fps} frames a second of a video with {source_fps} a second")
        most = min(rules.max_frames, total_frames) // rules.multiple * rules.multiple
        wanted = min(max(total_frames / source_fps * fps, rules.min_frames), most)
        # A video shorter than one patch keeps all it has; its last frame is repeated to fill the patch.
        count = math.floor(wanted / rules.multiple) * rules.multiple or min(total_frames, rules.multiple)
    return np.arange(count) * total_frames // count


def load_video(
    source: Any, rules: FrameRules | None = None, *, fit: Fit | None = None, allow_private_urls: bool = False
) -> Video:
    """Return the frames of ``source`` that ``rules`` keep, each brought to the size that ``fit`` gives.

    ``source``: a file or http(s) address of a video; a folder of images (in the order of the numbers in
    their names) or a list of image sources; a uint8 array (T, H, W, 3). Images and arrays are taken as
    already sampled: all are kept, at ``rules.fps`` frames a second, or ``num_frames`` of them.
    Raises DataError with the reason.
    """
    rules = rules or FrameRules()
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 4 or source.shape[-1] != 3 or not len(source):
            raise DataError(
                f"a video array must be uint8 of shape (T, H, W, 3), got {source.dtype} {source.shape}"
            )
        return _from_images([Image.fromarray(np.ascontiguousarray(frame)) for frame in source], rules, fit)
    if isinstance(source, (list, tuple)):
        images = [load_image(frame, allow_private_urls=allow_private_urls) for frame in source]
        return _from_images(images, rules, fit)
    if not isinstance(source, (str, Path)) or not str(source):
        raise DataError(
            f"a video must be a path, an address, a list of frames or an array, got {type(source).__name__}"
        )
    if is_url(source):
        body = fetch_bytes(
            str(source), max_bytes=MAX_URL_BYTES, timeout_s=URL_TIMEOUT_S, allow_private=allow_private_urls
        )
        return _from_file(lambda: io.BytesIO(body), str(source), rules, fit)
    path = Path(source)
    if path.is_dir():
        frames = sorted((p for p in path.iterdir() if p.suffix.lower() in _FRAME_SUFFIXES), key=_natural)
        if not frames:
            raise DataError(f"video {path}: the folder holds no image ({', '.join(sorted(_FRAME_SUFFIXES))})")
        return _from_images([load_image(frame) for frame in frames], rules, fit)
    if not path.is_file():
        raise DataError(f"video {path}: there is no such file")
    return _from_file(lambda: str(path), str(path), rules, fit)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key in which frame2 comes before frame10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def _from_images(images: list[Image.Image], rules: FrameRules, fit: Fit | None) -> Video:
    sizes = {image.size for image in images}
    if len(sizes) != 1:
        raise DataError(
            f"the frames of a video must have one size, got {len(images)} frames of (W, H) {sorted(sizes)}"
        )
    total, fps = len(images), rules.fps or DEFAULT_FPS
    indices = np.arange(total)
    if rules.num_frames is not None:
        indices = sample_indices(total, None, rules)
        fps = DEFAULT_FPS * len(indices) / total
    (width, height) = images[0].size
    size = fit(len(indices), height, width) if fit else (height, width)
    return Video(np.stack([_sized(images[i], size) for i in indices]), fps, indices, total)


def _from_file(opened: Callable[[], Any], name: str, rules: FrameRules, fit: Fit | None) -> Video:
    """Decode; once more where the container announces slightly more frames than it holds."""
    try:
        import av
    except ImportError:
        raise DataError(
            f"video {name}: decoding a video file needs PyAV; pip install 'mix-core[video]', "
            "or give a folder of frames"
        ) from None
    try:
        total, source_fps = _announced(av, opened)
        indices = sample_indices(total, source_fps, rules)
        frames, found = _decode(av, opened, indices, fit)
        if len(frames) < len(indices) and found >= total - max(2, total // 20):
            total, indices = found, sample_indices(found, source_fps, rules)
            frames, found = _decode(av, opened, indices, fit)
    except av.error.FFmpegError as error:
        reason = error.strerror or str(error)
        raise DataError(f"video {name}: it is corrupt, or no format known here ({reason})") from error
    except DataError as error:
        raise DataError(f"video {name}: {error}") from error
    if len(frames) != len(indices) or not frames:
        raise DataError(f"video {name}: truncated, only {found} of {total} frames can be decoded")
    return Video(np.stack(frames), source_fps * len(indices) / total, indices, total)


def _announced(av: Any, opened: Callable[[], Any]) -> tuple[int, float]:
    """Number of frames and frames a second, by the container or by counting its packets."""
    with av.open(opened()) as container:
        if not container.streams.video:
            raise DataError("it has no picture stream")
        stream = container.streams.video[0]
        rate = stream.average_rate or stream.guessed_rate or stream.base_rate
        total = stream.frames or sum(1 for packet in container.demux(stream) if packet.size)
    if not total or not rate:
        raise DataError(f"it announces {total} frames at {rate} a second")
    return int(total), float(rate)


def _decode(
    av: Any, opened: Callable[[], Any], indices: np.ndarray, fit: Fit | None
) -> tuple[list[np.ndarray], int]:
    """(the frames at ``indices``, how many frames were seen until all of them were found)."""
    kept: list[np.ndarray] = []
    wanted = iter(indices.tolist())
    next_index = next(wanted, None)
    seen, size = 0, (0, 0)
    for frame in _stream(av, opened):
        if next_index is None:
            break
        while seen == next_index:
            picture = _upright(frame)
            if not kept:
                size = fit(len(indices), picture.height, picture.width) if fit else picture.size[::-1]
            kept.append(_sized(picture, size))
            next_index = next(wanted, None)
        seen += 1
    return kept, seen


def _stream(av: Any, opened: Callable[[], Any]) -> Iterator[Any]:
    with av.open(opened()) as container:
        container.streams.video[0].thread_type = "AUTO"
        yield from container.decode(video=0)


def _upright(frame: Any) -> Image.Image:
    """The frame as RGB, turned as the file's display matrix says (phones record sideways)."""
    if frame.width * frame.height > MAX_IMAGE_PIXELS:
        raise DataError(f"frames have {frame.width} x {frame.height} pixels, the limit is {MAX_IMAGE_PIXELS}")
    turns = round(getattr(frame, "rotation", 0) / 90) % 4
    methods = (None, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
    picture = frame.to_image()
    return picture.transpose(methods[turns]) if turns else picture


def _sized(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """The image as (H, W, 3) uint8 of that (height, width)."""
    if image.size != (size[1], size[0]):
        image = image.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return np.asarray(image)
