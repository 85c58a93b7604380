"""Write llava_curves.json: the losses of the first steps of LLaVA on the digits, on the CPU in float32.

    python -m tests.goldens.make_llava

Run from the root. tests/integration/test_llava_training.py holds training to this file.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from tests.integration.llava_runs import KINDS, losses, write_run
from tests.integration.training_runs import train

FILE = Path(__file__).parent / "llava_curves.json"


def main() -> None:
    curves = {}
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as name:
            done = train(write_run(Path(name), kind), "--device", "cpu")
            if done.returncode:
                raise SystemExit(done.stderr)
            curves[kind] = [round(loss, 6) for loss in losses(Path(name) / "run")]
    FILE.write_text(json.dumps(curves, indent=1) + "\n")
    print(f"wrote {FILE}")


if __name__ == "__main__":
    main()
