"""References from the host, made once a run of the suite, in a process without the device's settings.

`python -m mix_core.conformance.host FAMILY WHAT FILE [FOLDER]` writes an .npz file: WHAT is `model` (logits
and gradients), `curve` (20 losses) or `loaded` (logits of the model in FOLDER).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from mix_core.conformance.case import Mismatch
from mix_core.conformance.target import HOST, host_environment

TIMEOUT_S = 240.0
GRADIENT = "gradient."


def reference(scratch: Path, family: str, what: str, folder: Path | None = None) -> dict[str, np.ndarray]:
    """What the host computes, from the run's scratch folder where it has been made already."""
    path = scratch / f"{family}-{what}.npz"
    if folder is not None or not path.is_file():
        command = [sys.executable, "-W", "ignore", "-m", "mix_core.conformance.host", family, what, str(path)]
        command += [str(folder)] if folder else []
        done = subprocess.run(
            command, env=host_environment(), capture_output=True, text=True, timeout=TIMEOUT_S
        )
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["nothing"])[-1]
            raise Mismatch(f"the reference on the host could not be made: {last}")
    with np.load(path) as arrays:
        return dict(arrays)


def main(words: list[str]) -> None:
    family, what, path = words[0], words[1], Path(words[2])
    import mix_core.device as device

    device.activate(HOST, kernels="reference", allow_reexec=True)
    from mix_core.conformance import tiny_runs

    if what == "model":
        arrays = {"logits": tiny_runs.logits(family)}
        arrays |= {GRADIENT + name: array for name, array in tiny_runs.gradients(family).items()}
    elif what == "curve":
        arrays = {"losses": np.array(tiny_runs.curve(family))}
    else:
        from mix_core.models.registry import load_model

        arrays = {"logits": tiny_runs.logits(family, model=load_model(Path(words[3]))[2])}
    np.savez(path, **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(sys.argv[1:])
