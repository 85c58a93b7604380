"""What a device's settings alone give an unmodified Paddle program.

Runs benchmarks/programs/paddle_decoder.py as it is and under `mix-core run --device D --`, in turn.
Prints three JSON lines: without, with, and the ratios (above 1: the settings help). What follows `--` goes
to the program.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).resolve().parent / "programs" / "paddle_decoder.py"


def run(command: list[str]) -> dict[str, float]:
    """Run one program and return the JSON line that it printed last."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def medians(lines: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(line[key] for line in lines) for key in lines[0]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--rounds", type=int, default=3, help="runs of each kind, alternating; medians are printed"
    )
    parser.add_argument("program_arguments", nargs="*", help="arguments of the program, after `--`")
    arguments = parser.parse_args()

    plain = [sys.executable, str(PROGRAM), *arguments.program_arguments]
    settled = [sys.executable, "-m", "mix_core.cli.main", "run", "--device", arguments.device, "--", *plain]
    without, with_settings = [], []
    for _ in range(arguments.rounds):
        without.append(run(plain))
        with_settings.append(run(settled))
    before, after = medians(without), medians(with_settings)
    ratios = {
        "ratio_train_tok_s": after["train_tok_s"] / before["train_tok_s"],
        "ratio_rss_mib": before["rss_mib"] / after["rss_mib"],
    }
    for line in ({"settings": False} | before, {"settings": True} | after, ratios):
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
