"""One training step and generation of a small Qwen2.5-VL, beside transformers on PyTorch.

Prints one JSON line. With --peer: the peer's line second, and third the ratios: above 1, mix-core is
better. Each program runs in a process of its own with the user's environment; with --rounds they take
turns, and the lines hold medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import workload

PEER = Path(__file__).resolve().parent / "peers" / "transformers_qwen2_5_vl.py"
HIGHER_IS_BETTER = ("train_tok_s", "decode_tok_s")
LOWER_IS_BETTER = ("step_ms", "rss_mib", "prefill_ms")


def measure_here(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the workload on mix-core in this process."""
    import mix_core.device as device
    from mix_core.models.registry import get_family

    size = workload.SIZES[arguments.size]
    run = device.Workload(model="qwen2_5_vl", mode="train", dtype=arguments.dtype)
    activation = device.activate(arguments.device, workload=run, kernels=arguments.kernels, allow_reexec=True)
    from mix_core.inference.generation import generate
    from mix_core.training.in_backward import BUNCH
    from mix_core.training.optimizer import AdamW
    from mix_core.training.precision import Precision

    precision = Precision.of(arguments.dtype, "O1", activation)
    family = get_family("qwen2_5_vl")
    model = family.build(family.config_from_dict(workload.config_dict(size)))
    family.init_weights(model, 0)
    within = BUNCH if arguments.optimizer_in_backward else 0
    optimizer = AdamW(model, weight_decay=workload.WEIGHT_DECAY, in_backward=within)
    batch = workload.batch(size, arguments.seq)
    prompt = {name: array for name, array in batch.items() if name != "labels"}

    def train_step() -> float:
        with precision.computing():
            loss_sum, labels = model.loss(batch)
            loss = loss_sum / labels
            optimizer.before_backward(loss, workload.LEARNING_RATE, 1.0)
            loss.backward()
        optimizer.after_pass()
        optimizer.step(workload.LEARNING_RATE)
        optimizer.clear_grad()
        activation.runtime.synchronize()
        return float(loss)

    def generate_tokens(tokens: int) -> None:
        model.eval()
        with precision.computing():
            generate(model, prompt, max_new_tokens=tokens)

    model.train()
    return workload.measure(
        arguments,
        program="mix-core",
        params=sum(int(parameter.size) for parameter in model.parameters()),
        train_step=train_step,
        generate=generate_tokens,
    )


def run_program(path: Path, arguments: argparse.Namespace, *extra: str) -> dict[str, Any]:
    """Run one program in a new process and return the JSON line that it printed last."""
    names = ("size", "dtype", "seq", "steps", "decode")
    shared = [f"--{name}={getattr(arguments, name)}" for name in names]
    command = [sys.executable, str(path), *shared, *extra]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    return json.loads(done.stdout.strip().splitlines()[-1])


def medians(lines: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        key: statistics.median(line[key] for line in lines) if isinstance(value, float) else value
        for key, value in lines[0].items()
    }


def ratios(ours: dict[str, Any], peer: dict[str, Any]) -> dict[str, float]:
    better = {f"ratio_{key}": ours[key] / peer[key] for key in HIGHER_IS_BETTER}
    return better | {f"ratio_{key}": peer[key] / ours[key] for key in LOWER_IS_BETTER}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    workload.add_arguments(parser)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--kernels", choices=("auto", "reference"), default="auto")
    parser.add_argument("--peer", action="store_true", help="measure transformers on PyTorch too")
    parser.add_argument(
        "--optimizer-in-backward", action="store_true", help="mix-core updates parameters going back"
    )
    parser.add_argument("--rounds", type=int, default=1, help="runs of each program, in turn")
    parser.add_argument(
        "--here", action="store_true", help="measure mix-core in this very process (internal)"
    )
    arguments = parser.parse_args()
    if arguments.here:
        from mix_core.cli.main import guarded

        sys.exit(guarded(lambda: workload.print_line(measure_here(arguments)), []))

    own = ["--here", f"--device={arguments.device}", f"--kernels={arguments.kernels}"]
    own += ["--optimizer-in-backward"] if arguments.optimizer_in_backward else []
    our_lines, peer_lines = [], []
    for _ in range(arguments.rounds):
        our_lines.append(run_program(Path(__file__), arguments, *own))
        if arguments.peer:
            peer_lines.append(run_program(PEER, arguments))
    ours = medians(our_lines)
    workload.print_line(ours)
    if arguments.peer:
        peer = medians(peer_lines)
        workload.print_line(peer)
        workload.print_line(ratios(ours, peer))


if __name__ == "__main__":
    main()
