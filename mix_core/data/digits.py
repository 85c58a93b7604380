"""The bundled digits as three picture tasks: `mix-core data digits`.

`digit`   which digit is this            -> "7"
`number`  read the 2 to 4 digits         -> "4821"
`box`     where, among others, is the 7  -> "<box>(x1,y1),(x2,y2)</box>" in [0, 1000)

Scans are split first and composed afterwards, so no scan of an evaluation picture is in a training picture.
The same seed gives the same pixels and the same JSON on every machine; the bytes of the PNG files may differ
with the compressor.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from mix_core.data import glyphs
from mix_core.data.draws import Draws
from mix_core.errors import DataError

# Geometry and counts. Canvases are whole numbers of 12-pixel cells (patch 6, merge 2), so none is rescaled.
COUNTS = {
    "train": {"digit": 15000, "number": 8000, "box": 5000},
    "eval": {"digit": 360, "number": 300, "box": 300},
}
GLYPH_PX = (16, 20)  # smallest and largest side of a digit
DIGIT_CANVASES_PX = (24,) * 18 + (36, 48)  # drawn from; the glyph grows with the canvas
SLANT_PX = 4  # at most, to either side, for a digit of full size; training pictures only
NUMBER_SLOTS = 4
NUMBER_LENGTHS = (2, 4)
NUMBER_CANVAS_PX = (84, 24)  # width, height
BOX_CANVAS_PX = 48
BOX_DIGITS = 3
BOX_TARGET = 7
PAPER_TONES = (200, 255)
INK_TONES = (0, 80)

PROMPTS = {
    "digit": "Which digit is this?",
    "number": "Read the number.",
    "box": f"Where is the {BOX_TARGET}?",
}

ATTRIBUTION = """\
The pictures in this folder are composed of scans from 'Optical Recognition of Handwritten Digits',
E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, 1998, https://doi.org/10.24432/C50P49,
used under the Creative Commons Attribution 4.0 International licence
(https://creativecommons.org/licenses/by/4.0/). Changes: scaled, toned and placed on canvases by mix-core.
"""


class Picture(NamedTuple):
    """One generated row before it is written."""

    pixels_HW: np.ndarray
    """uint8 grey."""
    answer: str
    scans: list[int]
    """Numbers of the scans in it."""


class Pool:
    """The scans of one split, ready to be drawn from."""

    def __init__(self, scans: np.ndarray, varied: bool) -> None:
        """`varied`: draw a scan wider, narrower and slanted, as other hands would; else as it was written."""
        self.images, self.labels = glyphs.load_scans()
        self.varied = varied
        self.scans = [int(scan) for scan in scans]
        self.targets = [scan for scan in self.scans if self.labels[scan] == BOX_TARGET]
        self.others = [scan for scan in self.scans if self.labels[scan] != BOX_TARGET]
        self.leading = [scan for scan in self.scans if self.labels[scan] != 0]

    def pick(self, draws: Draws, scans: list[int]) -> int:
        return scans[draws.below(len(scans))]

    def ink(self, draws: Draws, scan: int, enlarged: tuple[int, int] = (1, 1)) -> tuple[np.ndarray, int]:
        """A scan as ink at a drawn size, times the fraction `enlarged`."""
        over, under = enlarged
        height_px = draws.between(*GLYPH_PX) * over // under
        if not self.varied:
            return glyphs.draw_ink(self.images[scan], height_px)
        width_px = draws.between(*GLYPH_PX) * over // under
        slant_px = draws.between(-SLANT_PX, SLANT_PX) * over // under
        return glyphs.draw_ink(self.images[scan], height_px, width_px, slant_px)

    def in_turn(self, draws: Draws, count: int) -> Iterator[int]:
        """`count` scans, each as often as the others, in a new order each time round."""
        for done in range(0, count, len(self.scans)):
            for position in draws.permutation(len(self.scans))[: count - done]:
                yield self.scans[position]


def _paper(draws: Draws, width: int, height: int) -> tuple[np.ndarray, int]:
    """An empty canvas and the tone to write on it with."""
    return np.full((height, width), draws.between(*PAPER_TONES), np.uint8), draws.between(*INK_TONES)


def _make_digit(draws: Draws, pool: Pool, scan: int) -> Picture:
    """One digit, on canvases of several sizes: a picture from elsewhere is scaled into their range."""
    side = DIGIT_CANVASES_PX[draws.below(len(DIGIT_CANVASES_PX))]
    canvas_HW, tone = _paper(draws, side, side)
    ink_HW, full = pool.ink(draws, scan, enlarged=(side, DIGIT_CANVASES_PX[0]))
    left, top = draws.between(0, side - ink_HW.shape[1]), draws.between(0, side - ink_HW.shape[0])
    glyphs.put_ink(canvas_HW, ink_HW, full, left, top, tone)
    return Picture(canvas_HW, str(pool.labels[scan]), [scan])


def _make_number(draws: Draws, pool: Pool) -> Picture:
    """2 to 4 digits in neighbouring slots; the first one is not 0."""
    width, height = NUMBER_CANVAS_PX
    canvas_HW, tone = _paper(draws, width, height)
    length = draws.between(*NUMBER_LENGTHS)
    first_slot = draws.between(0, NUMBER_SLOTS - length)
    slot_px = width // NUMBER_SLOTS
    scans = []
    for place in range(length):
        scan = pool.pick(draws, pool.leading if place == 0 else pool.scans)
        ink_HW, full = pool.ink(draws, scan)
        left = (first_slot + place) * slot_px + draws.between(0, slot_px - ink_HW.shape[1])
        glyphs.put_ink(canvas_HW, ink_HW, full, left, draws.between(0, height - len(ink_HW)), tone)
        scans.append(scan)
    return Picture(canvas_HW, "".join(str(pool.labels[scan]) for scan in scans), scans)


def _place_apart(draws: Draws, sizes: list[int]) -> list[tuple[int, int]]:
    """(left, top) for squares of these sizes on the box canvas, none touching another."""
    for _ in range(10_000):
        corners: list[tuple[int, int]] = []
        for size in sizes:
            left, top = draws.between(0, BOX_CANVAS_PX - size), draws.between(0, BOX_CANVAS_PX - size)
            taken = zip(corners, sizes)
            if any(
                left < x + other and x < left + size and top < y + other and y < top + size
                for (x, y), other in taken
            ):
                break
            corners.append((left, top))
        else:
            return corners
    raise DataError(
        f"squares of {sizes} pixels find no room on a canvas of {BOX_CANVAS_PX}; enlarge BOX_CANVAS_PX"
    )


def format_box(box_px: tuple[int, int, int, int], width: int, height: int) -> str:
    """A pixel box (right and bottom exclusive) as `<box>(x1,y1),(x2,y2)</box>` in [0, 1000)."""
    x1, x2 = (min(edge * 1000 // width, 999) for edge in box_px[0::2])
    y1, y2 = (min(edge * 1000 // height, 999) for edge in box_px[1::2])
    return f"<box>({x1},{y1}),({x2},{y2})</box>"


def _make_box(draws: Draws, pool: Pool) -> Picture:
    """Several digits apart from each other, exactly one of which is the target."""
    canvas_HW, tone = _paper(draws, BOX_CANVAS_PX, BOX_CANVAS_PX)
    scans = [pool.pick(draws, pool.targets)]
    scans += [pool.pick(draws, pool.others) for _ in range(BOX_DIGITS - 1)]
    inks = [pool.ink(draws, scan) for scan in scans]
    corners = _place_apart(draws, [max(ink_HW.shape) for ink_HW, _ in inks])
    for (ink_HW, full), (left, top) in zip(inks, corners):
        glyphs.put_ink(canvas_HW, ink_HW, full, left, top, tone)
    x1, y1, x2, y2 = glyphs.ink_box(*inks[0])
    left, top = corners[0]
    box_px = (left + x1, top + y1, left + x2, top + y2)
    return Picture(canvas_HW, format_box(box_px, BOX_CANVAS_PX, BOX_CANVAS_PX), scans)


def make_pictures(split: str, task: str, seed: int = 0) -> Iterator[Picture]:
    """All pictures of one task of one split ("train" or "eval"), in order."""
    draws = Draws("digits", split, task, seed)
    train = split == "train"
    pool = Pool(glyphs.split_scans()[0 if train else 1], varied=train)
    count = COUNTS[split][task]
    if task == "digit":
        return (_make_digit(draws, pool, scan) for scan in pool.in_turn(draws, count))
    make: Callable[[Draws, Pool], Picture] = {"number": _make_number, "box": _make_box}[task]
    return (make(draws, pool) for _ in range(count))


def _write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """A JSON list, one row a line, put in place in one step."""
    part = path.with_name(path.name + ".part")
    lines = ",\n".join(json.dumps(row) for row in rows)
    part.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    part.replace(path)


def write_digits(out: Path, *, seed: int = 0) -> None:
    """Write `out`/{images/, train.json, eval.json, ATTRIBUTION}; replaces files of the same names.

    Rows are in the messages form with image paths relative to the JSON file, and carry `task` and the numbers
    of their `scans`. Raises DataError when the folder cannot be written.
    """
    try:
        for split, tasks in COUNTS.items():
            folder = out / "images" / split
            folder.mkdir(parents=True, exist_ok=True)
            rows = []
            for task in tasks:
                for number, picture in enumerate(make_pictures(split, task, seed)):
                    name = f"{task}-{number:05d}"
                    Image.fromarray(picture.pixels_HW).save(folder / f"{name}.png", compress_level=1)
                    rows.append(_row(split, task, name, picture))
            _write_rows(out / f"{split}.json", rows)
        (out / "ATTRIBUTION").write_text(ATTRIBUTION, encoding="utf-8")
    except OSError as error:
        raise DataError(
            f"cannot write the digits to {out}: {error.strerror}; choose another folder"
        ) from error


def _row(split: str, task: str, name: str, picture: Picture) -> dict[str, Any]:
    return {
        "id": f"{split}-{name}",
        "task": task,
        "images": [f"images/{split}/{name}.png"],
        "messages": [
            {"role": "user", "content": f"<image>{PROMPTS[task]}"},
            {"role": "assistant", "content": picture.answer},
        ],
        "scans": picture.scans,
    }


def ensure_digits(out: Path, *, seed: int = 0) -> Path:
    """Make the digits at `out` unless this version's are there already; returns `out`."""
    return ensure_folder(out, _fingerprint(seed), lambda part: write_digits(part, seed=seed))


def ensure_folder(out: Path, made_by: str, write: Callable[[Path], None]) -> Path:
    """Let `write` fill `out`, unless it says in a file that `made_by` has done so; returns `out`.

    Whole or not at all: written beside and renamed, so an interrupted run leaves nothing half done. Of two
    runs that start at once the second waits for the first.
    """
    part, old = (out.with_name(f"{out.name}.{end}") for end in ("part", "old"))
    stamp = out / "made_by"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with open(out.with_name(f"{out.name}.lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if stamp.is_file() and stamp.read_text(encoding="utf-8") == made_by:
                return out
            for rest in (part, old):  # of a run that was killed
                shutil.rmtree(rest, ignore_errors=True)
            try:
                write(part)
                (part / stamp.name).write_text(made_by, encoding="utf-8")
                if out.exists():
                    out.rename(old)
                part.rename(out)
            finally:
                for rest in (part, old):
                    shutil.rmtree(rest, ignore_errors=True)
    except OSError as error:
        raise DataError(f"cannot write {out}: {error.strerror}; set MIX_CACHE to another folder") from error
    return out


def _fingerprint(seed: int) -> str:
    return fingerprint_of(seed, __file__, glyphs.__file__)


def fingerprint_of(seed: int, *sources: str) -> str:
    """Of everything that decides the pictures: these sources and the seed."""
    digest = hashlib.sha256(f"seed {seed}".encode())
    for source in sources:
        digest.update(Path(source).read_bytes())
    return digest.hexdigest()
