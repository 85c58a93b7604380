"""Makes digits_checksums.json: the pictures and rows that `mix-core data digits` makes on every machine.

Run after a change of the geometry in mix_core/data/digits.py: python tests/goldens/make_digits_checksums.py
"""

from __future__ import annotations

import hashlib
import json
from itertools import islice
from pathlib import Path

from mix_core.data import digits

TARGET = Path(__file__).with_name("digits_checksums.json")
PICTURES = 300
"""Of each task and split; one generator draws them in order, so later ones depend on these."""


def checksum(split: str, task: str) -> str:
    """Of sizes, pixels, answers and scans of the first pictures."""
    digest = hashlib.sha256()
    for picture in islice(digits.make_pictures(split, task), PICTURES):
        digest.update(repr((picture.pixels_HW.shape, picture.answer, picture.scans)).encode())
        digest.update(picture.pixels_HW.tobytes())
    return digest.hexdigest()


def checksums() -> dict[str, str]:
    return {
        f"{split} {task}": checksum(split, task) for split, tasks in digits.COUNTS.items() for task in tasks
    }


if __name__ == "__main__":
    TARGET.write_text(json.dumps(checksums(), indent=2) + "\n", encoding="utf-8")
    print(TARGET)
