"""About how long a row is, without making it a sample: for batches of like lengths (`group_by_length`).

Only the order of lengths matters. A token is about 4 bytes of text (more than 4 letters of English, fewer of
Chinese: 3 bytes a character), and about 28 x 28 pixels of a picture, as in Qwen2-VL; what another family
makes of a picture grows with its area too. A picture's size is in the first bytes of its file, so nothing is
decoded.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from PIL import Image, UnidentifiedImageError

BYTES_PER_TOKEN = 4
PIXELS_PER_TOKEN = 28 * 28
UNKNOWN_VISUAL = 512.0
"""Tokens of a video, and of a picture whose size is not seen without fetching or decoding it."""


def about_length(row: dict[str, Any], max_pixels: int | None = None) -> float:
    """Tokens of a row, roughly; `max_pixels`: what pictures are made smaller to, where that is known."""
    text_bytes, visual_tokens = 0, 0.0
    for message in row["messages"]:
        content = message["content"]
        parts = [{"text": content}] if isinstance(content, str) else content
        for part in parts:
            if "text" in part:
                text_bytes += len(part["text"].encode())
            else:
                visual_tokens += _visual_tokens(part.get("image"), max_pixels)
    return text_bytes / BYTES_PER_TOKEN + visual_tokens


def _visual_tokens(source: Any, max_pixels: int | None) -> float:
    size = source.size if isinstance(source, Image.Image) else None
    if isinstance(source, str) and not source.startswith(("http://", "https://", "data:")):
        size = picture_size(source)
    if size is None:
        return UNKNOWN_VISUAL
    pixels = size[0] * size[1]
    return min(pixels, max_pixels or pixels) / PIXELS_PER_TOKEN


@lru_cache(maxsize=1 << 16)
def picture_size(path: str) -> tuple[int, int] | None:
    """(width, height) from a file's header; None where it has none, which is said when the row is used."""
    opened: Callable[[str], Image.Image] = Image.open
    try:
        with opened(path) as picture:
            return picture.size
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError):
        return None
