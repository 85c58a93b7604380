"""Write qwen_vl_losses.json: losses and gradient norms of 20 steps of a small Qwen-VL on the digits.

    python -m tests.goldens.make_qwen_vl

Run from the root. First values, order and pictures are keyed by seed and name, so every machine has the same;
tests/integration/test_qwen_vl_training.py holds later runs to this one.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from tests.builders.qwen_vl_digits import write_run
from tests.integration.training_runs import metrics, train

FILE = Path(__file__).parent / "qwen_vl_losses.json"
KEYS = ("loss", "grad_norm", "label_tokens")


def curve(run: Path) -> list[dict[str, float]]:
    """What a run wrote of its steps."""
    return [{key: line[key] for key in KEYS} for line in metrics(run) if "loss" in line]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        done = train(write_run(Path(folder)), "--device", "cpu")
        if done.returncode:
            raise SystemExit(done.stderr)
        lines = ",\n".join(json.dumps(step) for step in curve(Path(folder) / "run"))
    FILE.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    print(f"wrote {FILE}")


if __name__ == "__main__":
    main()
