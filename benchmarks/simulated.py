"""What the simulated device costs: a training step against the CPU's, an all_reduce, its building.

Prints one JSON line for each measurement, with its limit and whether it held; exits with 1 if one did not.
Steps run in processes of their own, on the CPU and on the simulated device in turn, its memory protected.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PYTHON = [sys.executable]
MIX_CORE = [*PYTHON, "-m", "mix_core.cli.main"]
WARM_UP_STEPS = 3
MOST_RATIO, LEAST_GB_S, MOST_BUILD_S = 1.6, 1.0, 120.0
BUILD = "from mix_core.device import simulate_build; simulate_build.library()"


def run(command: list[str], folder: Path, **variables: str) -> str:
    """Standard output of a program in the user's environment, less MIX_SIM*; ends this one if it fails."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MIX_SIM")}
    done = subprocess.run(command, cwd=folder, env=environ | variables, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}\nexit code {done.returncode}")
    return done.stdout


def on(device: str) -> dict[str, str]:
    return {} if device == "cpu" else {"MIX_SIMULATE": "1", "MIX_SIM_PROTECT": "1"}


def digits_step_ms(device: str, folder: Path, steps: int) -> float:
    """Median step of the recipe `digits`."""
    run_folder = folder / device
    words = ["--device", device, "--max_steps", str(steps), "--do_eval", "false", "--save_strategy", "no"]
    words += ["--output_dir", str(run_folder), "--overwrite_output_dir", "true", "--progress_bar", "false"]
    run([*PYTHON, "-m", "mix_core.train", "--recipe", "digits", *words], folder, **on(device))
    lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    return statistics.median(line["step_ms"] for line in lines[WARM_UP_STEPS:] if "step_ms" in line)


def tiny_step_ms(device: str, folder: Path, steps: int) -> float:
    """Median step of benchmarks/train_step.py; its first two steps warm up."""
    program = [*PYTHON, str(HERE / "train_step.py"), "--here", "--size", "tiny", "--decode", "1"]
    words = ["--device", device, "--steps", str(steps)]
    return json.loads(run([*program, *words], folder, **on(device)).strip().splitlines()[-1])["step_ms"]


def step(
    name: str, measure: Callable[[str, Path, int], float], device: str, rounds: int, steps: int, folder: Path
) -> dict[str, Any]:
    measured: dict[str, list[float]] = {"cpu": [], device: []}
    for _ in range(rounds):
        for one, values in measured.items():
            values.append(measure(one, folder, steps))
    cpu, simulated = (statistics.median(values) for values in measured.values())
    ratio = statistics.median(theirs / ours for ours, theirs in zip(*measured.values()))
    return {
        "what": name,
        "device": device,
        "cpu_ms": round(cpu, 1),
        "simulated_ms": round(simulated, 1),
        "ratio": round(ratio, 2),
        "limit": MOST_RATIO,
        "held": ratio <= MOST_RATIO,
    }


def collective(device: str, rounds: int, folder: Path) -> dict[str, Any]:
    """all_reduce of 64 MiB between two processes; the median of the rounds."""
    out = folder / "all_reduce.json"
    launch = [*PYTHON, "-m", "paddle.distributed.launch", "--devices", "0,1"]
    launch += ["--log_dir", str(folder / "log")]
    program = [str(HERE / "programs" / "all_reduce.py"), "--out", str(out)]
    lines = []
    for _ in range(rounds):
        command = [*MIX_CORE, "run", "--device", device, "--simulate", "--", *launch, *program]
        run(command, folder, MIX_SIM_DEVICES="2", MIX_SIM_PROTECT="1")
        lines.append(json.loads(out.read_text()))
    line = sorted(lines, key=lambda one: one["gb_s"])[(rounds - 1) // 2]
    return {"what": "all_reduce"} | line | {"limit": LEAST_GB_S, "held": line["gb_s"] >= LEAST_GB_S}


def build(folder: Path) -> dict[str, Any]:
    """Seconds to build the simulator in an empty cache."""
    started, used = time.perf_counter(), processor_s()
    run([*PYTHON, "-c", BUILD], folder, MIX_CACHE=str(folder / "cache"))
    seconds, used = time.perf_counter() - started, processor_s() - used
    line = {"what": "build", "s": round(seconds, 1), "processor_s": round(used, 1)}
    return line | {"limit": MOST_BUILD_S, "held": seconds < MOST_BUILD_S}


def processor_s() -> float:
    """Of all programs that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="npu", help="device whose plugin is simulated")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind, in turn")
    parser.add_argument("--steps", type=int, default=15, help="training steps of a run")
    parser.add_argument("--only", choices=("digits", "tiny", "all_reduce", "build"))
    arguments = parser.parse_args()
    device, rounds, steps = arguments.device, arguments.rounds, arguments.steps
    measurements: dict[str, Callable[[Path], dict[str, Any]]] = {
        "digits": lambda folder: step("digits", digits_step_ms, device, rounds, steps, folder),
        "tiny": lambda folder: step("tiny", tiny_step_ms, device, rounds, steps, folder),
        "all_reduce": lambda folder: collective(device, rounds, folder),
        "build": build,
    }
    held = True
    for name, measure in measurements.items():
        if arguments.only not in (None, name):
            continue
        with tempfile.TemporaryDirectory() as folder:
            line = measure(Path(folder))
        print(json.dumps(line), flush=True)
        held = held and line["held"]
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
