"""Check that programs which know nothing of mix-core run under `mix-core run` on a simulated device.

Started by `make test-clients` in an environment made from the extra [paddlenlp]. It runs PaddleNLP's own
Trainer (tests/clients/paddlenlp_trainer.py) on the CPU and on a simulated NPU, in float32 and in bfloat16.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

CLIENT = Path(__file__).resolve().parents[1] / "tests" / "clients" / "paddlenlp_trainer.py"
MIX_CORE = Path(sys.executable).parent / "mix-core"
PLACES = {"cpu": ["Place(cpu)"], "npu": ["Place(npu:0)"]}
FALL = 0.5
"""The last loss against the first: the rows count upwards, which twelve steps learn well."""
BFLOAT16_TOLERANCE = 0.05
"""Of the last loss, against float32; bfloat16 keeps 8 bits, and the twelve steps are steep."""
SECONDS = 900


def train(folder: Path, device: str, *options: str) -> dict[str, Any]:
    """Run the client on a device, simulated unless it is the CPU; returns the line that it printed last."""
    simulate = [] if device == "cpu" else ["--simulate"]
    own = [sys.executable, str(CLIENT), "--device", device, "--output_dir", str(folder), *options]
    command = [str(MIX_CORE), "run", "--device", device, *simulate, "--", *own]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}\nexit code {done.returncode}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def complaints(device: str, dtype: str, found: dict[str, Any]) -> list[str]:
    """What is wrong with a run; nothing when it trained on its device."""
    losses = found["losses"]
    wrong = []
    if len(losses) < 2 or not losses[-1] < FALL * losses[0]:
        wrong.append(f"the loss did not fall below {FALL:g} of its first value: {losses}")
    if found["places"] != PLACES[device]:
        wrong.append(f"parameters lie on {found['places']}, expected {PLACES[device]}")
    if found["dtypes"] != [f"paddle.{dtype}"]:
        wrong.append(f"parameters are {found['dtypes']}, expected {dtype}")
    return wrong


def main() -> None:
    runs = {("cpu", "float32"): (), ("npu", "float32"): (), ("npu", "bfloat16"): ("--bf16",)}
    losses = {}
    for (device, dtype), options in runs.items():
        with tempfile.TemporaryDirectory() as folder:
            found = train(Path(folder), device, *options)
        kind = "simulated " if device != "cpu" else ""
        wrong = complaints(device, dtype, found)
        if wrong:
            sys.exit("\n".join(f"{kind}{device}, {dtype}: {text}" for text in wrong))
        losses[device, dtype] = found["losses"]
        print(f"{kind}{device}, {dtype}: loss {found['losses'][0]:.4f} to {found['losses'][-1]:.4f}")
    cpu, npu, half = losses.values()
    if npu != cpu:
        sys.exit(f"float32 losses differ between the CPU and the simulated NPU: {cpu} and {npu}")
    if abs(half[-1] - npu[-1]) > BFLOAT16_TOLERANCE * npu[-1]:
        sys.exit(f"the last loss in bfloat16 is {half[-1]}, in float32 {npu[-1]}")
    print("float32 losses are equal to the CPU's; parameters lie on the device")


if __name__ == "__main__":
    main()
