"""Makes goldens/FAMILY.json: 20 losses of each tiny model on this machine's host, and its processor's name.

`python -m mix_core.conformance.goldens`
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from mix_core.conformance.host import reference
from mix_core.conformance.on_training import GOLDENS
from mix_core.conformance.tiny_runs import RATE, tiny_families
from mix_core.device.cpu_topology import read_processor


def main() -> None:
    GOLDENS.mkdir(exist_ok=True)
    for family in tiny_families():
        with tempfile.TemporaryDirectory() as folder:
            losses = reference(Path(folder), family, "curve")["losses"].tolist()
        made = {
            "processor": read_processor().model,
            "kernels": "reference",
            "learning_rate": RATE,
            "losses": losses,
        }
        path = GOLDENS / f"{family}.json"
        path.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
