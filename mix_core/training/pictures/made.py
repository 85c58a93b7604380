"""Pictures that a run makes to be looked at, and to be named by a reader of digits; they go into the report.

Shapes: N pictures.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from mix_core.data.digit_captions import NAMES, SIDE_PX
from mix_core.inference.text_to_image import PictureModel, generate
from mix_core.training.gallery import FOLDER, JSON_NAME, MAX_SIDE_PIXELS
from mix_core.training.pictures.digit_reader import DigitReader

if TYPE_CHECKING:
    from mix_core.config import RunConfig

BATCH = 50
"""Pixels of so many 64 x 64 pictures are made at once, and one picture at least."""
_BATCH_PIXELS = BATCH * 64 * 64
SHOWN_PER_DIGIT = 6


@dataclass(frozen=True)
class Made:
    picture: Image.Image
    prompt: str


def make_pictures(
    model: PictureModel, config: RunConfig, prompts: Sequence[str], side: int, count: int | None = None
) -> list[Made]:
    """`count` pictures of each prompt (num_validation_images), by the run's seed and keys about sampling."""
    count = count or config.num_validation_images
    wanted = [prompt for prompt in prompts for _ in range(count)]
    size = max(1, min(len(wanted), _BATCH_PIXELS // (side * side)))
    made: list[Made] = []
    for start in range(0, len(wanted), size):
        batch = wanted[start : start + size]
        pictures = generate(
            model,
            batch,
            steps=config.validation_steps,
            guidance=config.validation_guidance,
            seed=config.seed + start,
            width=side,
            height=side,
            progress=False,
        )
        made += [Made(picture, prompt) for picture, prompt in zip(pictures, batch)]
    return made


def score_digits(model: PictureModel, config: RunConfig, gallery: Gallery, side: int) -> dict[str, float]:
    """Make `scored_digits` pictures, as many of each digit, and let a reader name them.

    Returns the share that is named as asked for, of all (`digits_exact`) and of each digit, and the reader's
    own share on held-out real pictures (`reader_exact`).
    """
    each = config.scored_digits // len(NAMES)
    made = make_pictures(model, config, [config.digit_prompt.format(name) for name in NAMES], side, each)
    digits = np.repeat(np.arange(len(NAMES)), each)
    reader = DigitReader()
    named = reader.read(np.stack([_grey(one.picture) for one in made]))
    gallery.add_named(made, digits, named)
    right = named == digits
    results = {"digits_exact": float(right.mean()), "reader_exact": reader.held_out()}
    return results | {f"{name}_exact": float(right[digits == i].mean()) for i, name in enumerate(NAMES)}


def _grey(picture: Image.Image) -> np.ndarray:
    """uint8 (32, 32)."""
    return np.asarray(picture.convert("L").resize((SIDE_PX, SIDE_PX), Image.Resampling.BOX))


class Gallery:
    """gallery.json and gallery/*.png of a run that makes pictures; goes on with what is there."""

    def __init__(self, run_dir: Path) -> None:
        self.folder = run_dir
        path = run_dir / JSON_NAME
        self.entries: list[dict[str, Any]] = json.loads(path.read_text("utf-8")) if path.is_file() else []

    def add(self, task: str, step: int, made: Sequence[Made]) -> None:
        """Pictures of a step; those that an interrupted run made there are replaced."""
        self.entries = [one for one in self.entries if one["task"] != task]
        for number, one in enumerate(made):
            self._put(f"{step:06d}-{number:03d}", one, task)

    def add_named(self, made: Sequence[Made], digits: np.ndarray, named: np.ndarray) -> None:
        """Of each digit the first few, and all that were named otherwise than asked for."""
        self.entries = [one for one in self.entries if one["task"] not in NAMES]
        seen = dict.fromkeys(range(len(NAMES)), 0)
        for number, (one, digit, name) in enumerate(zip(made, digits.tolist(), named.tolist())):
            seen[digit] += 1
            if seen[digit] <= SHOWN_PER_DIGIT or digit != name:
                marked = {"answer": NAMES[name], "truth": NAMES[digit], "score": float(digit == name)}
                self._put(f"digit-{number:03d}", one, NAMES[digit], **marked)

    def _put(self, name: str, one: Made, task: str, **more: Any) -> None:
        (self.folder / FOLDER).mkdir(exist_ok=True)
        picture = one.picture
        if max(picture.size) > MAX_SIDE_PIXELS:
            picture = picture.copy()
            picture.thumbnail((MAX_SIDE_PIXELS, MAX_SIDE_PIXELS), Image.Resampling.LANCZOS)
        file = f"{FOLDER}/{name}.png"
        picture.save(self.folder / file)
        self.entries.append({"image": file, "task": task, "question": one.prompt, "pick": "made", **more})

    def write(self) -> None:
        """Put gallery.json in place in one step."""
        if not self.entries:
            return
        beside = self.folder / f".{JSON_NAME}.new"
        beside.write_text(json.dumps(self.entries, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(beside, self.folder / JSON_NAME)
