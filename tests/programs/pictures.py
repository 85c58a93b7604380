"""Pictures drawn on the active device in float32 and float16, into a file of arrays; fallbacks as JSON.

Arguments: a folder with model folders, the file for the arrays.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

import mix_core
from mix_core.errors import BadInputError


def main() -> None:
    drawn, refused = {}, {}
    for folder in sorted(Path(sys.argv[1]).iterdir()):
        for dtype in ("float32", "float16"):
            engine = mix_core.load(folder, dtype=dtype)
            try:
                pictures = engine.generate("a handwritten seven", seed=5, steps=3, width=32, height=16)
            except BadInputError as error:
                refused[f"{folder.name} {dtype}"] = str(error)
                continue
            drawn[f"{folder.name} {dtype}"] = np.asarray(pictures[0])
    np.savez(sys.argv[2], **drawn)
    from mix_core.device import simulate

    print(json.dumps({"refused": refused, "fallbacks": simulate.counters()["fallbacks"]}))


if __name__ == "__main__":
    main()
