"""Training on samples of mixed lengths packed into one row, beside transformers on PyTorch.

Prints a JSON line for each run: a quarter, a half and all of the samples packed (mix-core), then the peer's
samples padded to the longest, and in one dense row. Last the ratios: `ratio_*` above 1, packed is better;
`growth_*`, time for a token against that of half the tokens, 1 where time is linear. Each run is a process
of its own; a peer that needs more memory than there is says so instead.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import packed_workload
import workload

PEER = Path(__file__).resolve().parent / "peers" / "transformers_packed.py"
LOGIT_COPIES = 5
"""How many arrays of the logits' size the peer holds at once, as its peak memory shows."""
LOWER_IS_BETTER = ("step_ms", "rss_mib")


def measure_here(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train mix-core on the packed samples in this process."""
    import mix_core.device as device
    from mix_core.models.registry import get_family

    run = device.Workload(model="qwen2_5_vl", mode="train", dtype="float32")
    activation = device.activate(arguments.device, workload=run, kernels=arguments.kernels, allow_reexec=True)
    from mix_core.training.optimizer import AdamW

    family = get_family("qwen2_5_vl")
    model = family.build(family.config_from_dict(workload.config_dict(workload.SIZES[arguments.size])))
    family.init_weights(model, 0)
    optimizer = AdamW(model, weight_decay=workload.WEIGHT_DECAY)
    batch = packed_workload.batch(arguments, "packed")

    def train_step() -> float:
        loss_sum, labels = model.loss(batch)
        loss = loss_sum / labels
        loss.backward()
        optimizer.step(workload.LEARNING_RATE)
        optimizer.clear_grad()
        activation.runtime.synchronize()
        return float(loss)

    model.train()
    return packed_workload.measure(arguments, program="mix-core", form="packed", train_step=train_step)


def run_program(path: Path, arguments: argparse.Namespace, samples: int, *extra: str) -> dict[str, Any]:
    """Run one program in a new process, print and return its JSON line."""
    shared = [f"--{name}={getattr(arguments, name)}" for name in ("size", "mean", "steps")]
    command = [sys.executable, str(path), *shared, f"--samples={samples}", *extra]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    line = json.loads(done.stdout.strip().splitlines()[-1])
    workload.print_line(line)
    return line


def lacking(arguments: argparse.Namespace, form: str) -> str | None:
    """Why the peer cannot run here, if it cannot: its logits of all places are in memory several times."""
    places = packed_workload.batch(arguments, form)["input_ids"].size
    vocabulary = workload.SIZES[arguments.size].vocabulary
    needed = LOGIT_COPIES * places * vocabulary * 4 / 2**20
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) / 1024
    return None if needed < free else f"needs about {needed:.0f} MiB, {free:.0f} MiB are available"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    packed_workload.add_arguments(parser)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--kernels", choices=("auto", "reference"), default="auto")
    parser.add_argument("--peer", action="store_true", help="measure transformers on PyTorch too")
    parser.add_argument("--here", action="store_true", help="measure mix-core in this process (internal)")
    arguments = parser.parse_args()
    packed_workload.lengths(arguments)
    if arguments.here:
        from mix_core.cli.main import guarded

        sys.exit(guarded(lambda: workload.print_line(measure_here(arguments)), []))

    own = ("--here", f"--device={arguments.device}", f"--kernels={arguments.kernels}")
    counts = [n for n in (arguments.samples // 4, arguments.samples // 2) if n and n % 8 == 0]
    lines = [run_program(Path(__file__), arguments, n, *own) for n in (*counts, arguments.samples)]
    ratios: dict[str, float] = {}
    for half, whole in pairwise(lines):
        ratios[f"growth_{whole['tokens']}"] = half["train_tok_s"] / whole["train_tok_s"]
    for form in ("padded", "dense") if arguments.peer else ():
        why = lacking(arguments, form)
        if why is not None:
            workload.print_line({"program": "transformers+torch", "form": form, "not_run": why})
            continue
        peer = run_program(PEER, arguments, arguments.samples, f"--form={form}")
        ratios |= {f"ratio_{form}_{key}": peer[key] / lines[-1][key] for key in LOWER_IS_BETTER}
    workload.print_line(ratios)


if __name__ == "__main__":
    main()
