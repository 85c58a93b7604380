"""One image, from wherever a sample or a message names it, as 8-bit RGB.

Shapes: H height, W width, in pixels.
"""

from __future__ import annotations

import base64
import binascii
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from mix_core.data.fetch import fetch_bytes, is_url
from mix_core.errors import DataError

MAX_IMAGE_PIXELS = 89_478_485
"""Largest image that is decoded (256 MiB as RGB, Pillow's warning level); a bigger one is refused."""
MAX_URL_BYTES = 64 << 20
URL_TIMEOUT_S = 30.0

_ORIENTATION_TAG = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load_image(source: Any, *, allow_private_urls: bool = False) -> Image.Image:
    """Return ``source`` as a loaded RGB image, upright by its EXIF orientation.

    ``source``: a path, an http(s) address, a ``data:image/...;base64,`` text, encoded bytes, a PIL image,
    or a uint8 array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4). As in transformers, an alpha channel is
    dropped (the colours beneath it stay) and a PIL image given is not turned: who opened it decides.
    Raises DataError, naming the source and the reason.
    """
    if isinstance(source, Image.Image):
        return _decode(source, "the image given", turn=False)
    if isinstance(source, np.ndarray):
        return _from_array(source)
    name = _name(source)
    try:
        file = _open(source, name, allow_private_urls)
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(file)
    except FileNotFoundError:
        raise DataError(f"image {name}: there is no such file") from None
    except UnidentifiedImageError:
        raise DataError(f"image {name}: {_content_of(file)}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(
            f"image {name}: refused as a decompression bomb ({error}; the limit is {MAX_IMAGE_PIXELS} pixels)"
        ) from None
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"image {name}: cannot be opened ({_reason(error)})") from error
    with image:
        return _decode(image, name, turn=True)


def _open(source: Any, name: str, allow_private_urls: bool) -> Path | io.BytesIO:
    if isinstance(source, (bytes, bytearray)):
        return io.BytesIO(source)
    if isinstance(source, str) and source.startswith("data:"):
        header, _, payload = source.partition(",")
        if not header.endswith(";base64"):
            raise DataError(f"image {name}: a data address must be base64 (data:image/png;base64,...)")
        try:
            return io.BytesIO(base64.b64decode(payload, validate=True))
        except binascii.Error as error:
            raise DataError(f"image {name}: the base64 text is broken ({error})") from None
    if is_url(source):
        return io.BytesIO(
            fetch_bytes(
                source, max_bytes=MAX_URL_BYTES, timeout_s=URL_TIMEOUT_S, allow_private=allow_private_urls
            )
        )
    if not isinstance(source, (str, Path)) or not str(source):
        raise DataError(
            f"image {name}: expected a path, an address, bytes, an array or a PIL image, "
            f"got {type(source).__name__}"
        )
    return Path(source)


def _decode(image: Image.Image, name: str, *, turn: bool) -> Image.Image:
    if image.width * image.height > MAX_IMAGE_PIXELS:
        raise DataError(
            f"image {name}: {image.width} x {image.height} pixels, and the limit is {MAX_IMAGE_PIXELS} in all"
        )
    try:
        image.load()
        method = _TURNS.get(image.getexif().get(_ORIENTATION_TAG)) if turn else None
        rgb = image.convert("RGB") if image.mode != "RGB" else image
        return rgb.transpose(method) if method is not None else rgb
    except (OSError, ValueError, SyntaxError, EOFError, IndexError) as error:
        raise DataError(f"image {name}: its data is truncated or corrupt ({_reason(error)})") from error


def _from_array(pixels: np.ndarray) -> Image.Image:
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    is_image = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[-1] in (3, 4))
    if pixels.dtype != np.uint8 or not is_image:
        raise DataError(
            f"an image array must be uint8 of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), "
            f"got {pixels.dtype} {pixels.shape}"
        )
    return Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")


def _content_of(file: Path | io.BytesIO) -> str:
    """What a source holds that is no image, in words."""
    try:
        with file.open("rb") if isinstance(file, Path) else file as stream:
            stream.seek(0)
            head = stream.read(512)
    except OSError as error:
        return f"cannot be opened ({_reason(error)})"
    if not head:
        return "it has 0 bytes; fetch it again"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:5].lower() in (b"<html", b"<!doc"):
        return "its content is an HTML page, as a server sends instead of a picture; fetch it again"
    return f"its content is no image format known here (it begins with {head[:8]!r})"


def _name(source: Any) -> str:
    if isinstance(source, (bytes, bytearray)):
        return f"of {len(source)} bytes"
    text = str(source)
    return text if len(text) <= 200 and not text.startswith("data:") else text[:40] + "..."


def _reason(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    return text.splitlines()[0]
