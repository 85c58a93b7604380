"""Small video files, each frame of one known grey level, lossless."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def frame_level(index: int) -> int:
    """Grey level of a frame, so that a test can tell which frames it got."""
    return (index * 7 + 3) % 256


def write_video(path: Path, frames: int, *, rate: int = 10, height: int = 36, width: int = 52) -> Path:
    """Write ``frames`` frames of `frame_level` at ``rate`` a second; Matroska with FFV1. Needs PyAV."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "bgr0"
        for index in range(frames):
            pixels = np.full((height, width, 3), frame_level(index), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def turn_video(path: Path, turned: Path) -> Path:
    """Copy an mp4 file with a display matrix that asks for a quarter turn, as phones write it."""
    content = bytearray(path.read_bytes())
    # The matrix stands 40 bytes after the version of a track header of version 0, nine numbers of 4 bytes.
    at = content.index(b"tkhd") + 4 + 40
    one, minus_one, unit = 0x0001_0000, 0xFFFF_0000, 0x4000_0000
    matrix = (0, one, 0, minus_one, 0, 0, 0, 0, unit)
    content[at : at + 36] = b"".join(number.to_bytes(4, "big") for number in matrix)
    turned.write_bytes(content)
    return turned
