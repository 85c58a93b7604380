"""Train as `mix_core.train` does, several times in this process, with one start of the device for all.

`python training_series.py DEVICE FOLDER NAME... [--key value ...]` trains FOLDER/NAME/config.json into
FOLDER/NAME/OUT, where OUT is the variable SERIES_OUT.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mix_core.train import main


def series(device: str, folder: str, *rest: str) -> int:
    first = next((i for i, word in enumerate(rest) if word.startswith("--")), len(rest))
    for name in rest[:first]:
        inputs = Path(folder) / name
        words = ["--device", device, "--output_dir", str(inputs / os.environ["SERIES_OUT"])]
        if code := main([str(inputs / "config.json"), *words, *rest[first:]]):
            print(f"{name}: exit code {code}", file=sys.stderr)
            return code
    return 0


if __name__ == "__main__":
    sys.exit(series(*sys.argv[1:]))
