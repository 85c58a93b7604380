"""The bundled digits as single pictures with captions, for text to image.

Training pictures are made of the training scans alone, drawn wider, narrower, slanted and a little off the
middle, as other hands would write. The same seed gives the same pixels on every machine.

Shapes: N pictures, H and W pixels.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from mix_core.data import glyphs
from mix_core.data.captions import FILE_COLUMN, JSONL
from mix_core.data.digits import ATTRIBUTION, ensure_folder, fingerprint_of
from mix_core.data.draws import Draws

SIDE_PX = 32
HEIGHTS_PX, WIDTHS_PX = (24, 28), (20, 26)
SLANT_PX, SHIFT_PX = 4, 1
"""At most, to either side."""
COUNT = 6000
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CAPTION = "a handwritten {}"


def digit_picture(draws: Draws, scan: int) -> np.ndarray:
    """One scan in black on white, uint8 (32, 32)."""
    images, _ = glyphs.load_scans()
    height, width = draws.between(*HEIGHTS_PX), draws.between(*WIDTHS_PX)
    ink_HW, full = glyphs.draw_ink(images[scan], height, width, draws.between(-SLANT_PX, SLANT_PX))
    left = (SIDE_PX - width) // 2 + draws.between(-SHIFT_PX, SHIFT_PX)
    top = (SIDE_PX - height) // 2 + draws.between(-SHIFT_PX, SHIFT_PX)
    canvas_HW = np.full((SIDE_PX, SIDE_PX), 255, np.uint8)
    glyphs.put_ink(canvas_HW, ink_HW, full, left, top, 0)
    return canvas_HW


def digit_pictures(split: str, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (N, 32, 32) uint8 and digits (N,) of "train" or "eval", each scan as often as others."""
    draws = Draws("captioned digits", split, seed)
    scans = glyphs.split_scans()[0 if split == "train" else 1]
    rounds = [scans[draws.permutation(len(scans))] for _ in range(-(-count // len(scans)))]
    chosen = np.concatenate(rounds)[:count]
    pictures = np.stack([digit_picture(draws, int(scan)) for scan in chosen])
    return pictures, glyphs.load_scans()[1][chosen].astype(np.int64)


def write_captioned_digits(out: Path, *, seed: int = 0) -> None:
    """Write `out`/{metadata.jsonl, 00000.png..., ATTRIBUTION}."""
    out.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, (pixels_HW, digit) in enumerate(zip(*digit_pictures("train", COUNT, seed))):
        name = f"{number:05d}.png"
        Image.fromarray(pixels_HW).save(out / name, compress_level=1)
        lines.append(json.dumps({FILE_COLUMN: name, "text": CAPTION.format(NAMES[digit])}))
    (out / JSONL).write_text("\n".join(lines) + "\n", encoding="utf-8")
    (out / "ATTRIBUTION").write_text(ATTRIBUTION, encoding="utf-8")


def ensure_captioned_digits(out: Path, *, seed: int = 0) -> Path:
    """Make them at `out` unless this version's are there already; returns `out`."""
    made_by = fingerprint_of(seed, __file__, glyphs.__file__)
    return ensure_folder(out, made_by, lambda part: write_captioned_digits(part, seed=seed))
