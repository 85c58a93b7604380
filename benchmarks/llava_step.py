"""A full and a LoRA step of a small LLaVA-1.6, beside transformers and PEFT on PyTorch.

The workload is llava_workload.py's. Prints three JSON lines for each kind of step: mix-core's, the peer's,
and `time` and `memory` as shares of the peer's (below 1, mix-core is better), with the share of time that is
wanted. Every run has a process of its own with the user's environment; programs and kinds take turns, and
lines hold medians. `peak_mib` is the peak above what the process held before the model was built.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import llava_workload
import workload
from train_step import medians

PEER = Path(__file__).resolve().parent / "peers" / "transformers_llava.py"
WANTED = 0.6


def measure_here(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one kind of step on mix-core in this process."""
    import mix_core.device as device
    from mix_core.models.registry import get_family

    run = device.Workload(model="llava", mode="train", dtype=arguments.dtype)
    activation = device.activate(arguments.device, workload=run, kernels=arguments.kernels, allow_reexec=True)
    from mix_core.training.optimizer import AdamW
    from mix_core.training.precision import Precision

    size, before_mib = workload.SIZES[arguments.size], llava_workload.peak_mib()
    precision = Precision.of(arguments.dtype, "O1", activation)
    family = get_family("llava")
    model = family.build(family.config_from_dict(llava_workload.config_dict(size)))
    family.init_weights(model, 0)
    if arguments.kind == "lora":
        _add_adapters(model, family, arguments.rank)
    optimizer = AdamW(model, weight_decay=workload.WEIGHT_DECAY)
    batch = llava_workload.batch(size, arguments.seq)
    model.train()

    def train_step() -> float:
        with precision.computing():
            loss_sum, labels = model.loss(batch)
            loss = loss_sum / labels
            loss.backward()
        optimizer.step(workload.LEARNING_RATE)
        optimizer.clear_grad()
        activation.runtime.synchronize()
        return float(loss)

    return llava_workload.measure(
        arguments,
        arguments.kind,
        program="mix-core",
        learning=sum(int(parameter.size) for _, parameter in optimizer.named_parameters()),
        before_mib=before_mib,
        train_step=train_step,
    )


def _add_adapters(model: Any, family: Any, rank: int) -> None:
    """Adapters on all linear maps of the decoder, all else frozen."""
    from mix_core.models.common.lora import LoRASettings, add_adapter, init_adapter, linear_maps
    from mix_core.training.lora import NAME, targets

    for parameter in model.parameters():
        parameter.stop_gradient = True
    maps = targets(linear_maps(model, family.published_name), None)
    add_adapter(model, maps, NAME, LoRASettings(rank=rank, alpha=2 * rank))
    init_adapter(maps, NAME, 0)


def run_program(path: Path, kind: str, arguments: argparse.Namespace, *own: str) -> dict[str, Any]:
    """Run one program in a new process and return the JSON line that it printed last."""
    names = ("size", "dtype", "seq", "steps", "rank")
    shared = [f"--{name}={getattr(arguments, name)}" for name in names]
    command = [sys.executable, str(path), f"--kind={kind}", *shared, *own]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    llava_workload.add_arguments(parser)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--kernels", choices=("auto", "reference"), default="auto")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each program and kind, in turn")
    parser.add_argument(
        "--kind", choices=llava_workload.KINDS, help="measure mix-core in this very process (internal)"
    )
    arguments = parser.parse_args()
    if arguments.seq < llava_workload.PICTURE_TOKENS + 6:
        sys.exit(f"--seq is {arguments.seq}, expected {llava_workload.PICTURE_TOKENS + 6} or more")
    if arguments.kind is not None:
        from mix_core.cli.main import guarded

        sys.exit(guarded(lambda: workload.print_line(measure_here(arguments)), []))
    own = (f"--device={arguments.device}", f"--kernels={arguments.kernels}")
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for _ in range(arguments.rounds):
        for kind in llava_workload.KINDS:
            ours = run_program(Path(__file__), kind, arguments, *own)
            found.setdefault((kind, "ours"), []).append(ours)
            found.setdefault((kind, "peer"), []).append(run_program(PEER, kind, arguments))
    for kind in llava_workload.KINDS:
        ours, peer = (medians(found[kind, who]) for who in ("ours", "peer"))
        shares = {"time": ours["step_ms"] / peer["step_ms"], "memory": ours["peak_mib"] / peer["peak_mib"]}
        for line in (ours, peer, {"kind": kind, **shares, "wanted_time": WANTED}):
            workload.print_line(line)


if __name__ == "__main__":
    main()
