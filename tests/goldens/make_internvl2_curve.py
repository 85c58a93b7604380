"""Write internvl2_curve.json: losses of 20 steps on the digits, a small InternVL2 from scratch in float32,
computed by the reference operators.

    python -m tests.goldens.make_internvl2_curve

Run from the root after a change that is meant to change the curve.
tests/integration/test_internvl2_training.py holds runs to it.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from tests.integration.internvl2_runs import losses, write_run
from tests.integration.training_runs import train

FILE = Path(__file__).parent / "internvl2_curve.json"
CASES = {"full": {}, "frozen tower": {"freeze_vit": True}}


def main() -> None:
    curves = {}
    for name, keys in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            done = train(write_run(Path(folder), **keys), "--device", "cpu", "--kernels", "reference")
            if done.returncode:
                raise SystemExit(done.stdout + done.stderr)
            curves[name] = [round(loss, 6) for loss in losses(Path(folder) / "run")]
    FILE.write_text(json.dumps(curves, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {FILE}: " + ", ".join(f"{name} {c[0]:.4f} to {c[-1]:.4f}" for name, c in curves.items()))


if __name__ == "__main__":
    main()
