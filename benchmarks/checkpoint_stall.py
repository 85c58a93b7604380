"""How long training stands still for its checkpoints.

    python benchmarks/checkpoint_stall.py [--size mini] [--every 20] [--steps 80] [--folder DIR]

Trains the model of train_step.py and saves every so many steps, weights and optimizer state. Prints one JSON
line: `stall_ms`, the longest stand-still of a save, and `median_stall_ms`; `copying_ms`, what of a save went
into the copy, on average; `copy_ms`, one copy of as many bytes within host memory that was touched before;
`ratio_stall`, the longest stand-still by it; `share`, the seconds of all saves by those of the whole run;
`slower`, a step beside which files are written, by one beside which none are; the buffer's size.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import workload

COPIES = 5


def copy_seconds(size_bytes: int) -> float:
    """Median seconds of a copy of this many bytes into memory that was written before."""
    source, target = np.ones(size_bytes, np.uint8), np.zeros(size_bytes, np.uint8)
    seconds = []
    for _ in range(COPIES):
        started = time.perf_counter()
        np.copyto(target, source)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def make_parts(arguments: argparse.Namespace, activation: Any) -> Any:
    """The parts of a session, without rows: batches are made here."""
    from mix_core.config import RunConfig
    from mix_core.models.registry import get_family
    from mix_core.training.optimizer import AdamW
    from mix_core.training.snapshot import Parts

    family = get_family("qwen2_5_vl")
    model_config = family.config_from_dict(workload.config_dict(workload.SIZES[arguments.size]))
    model = family.build(model_config)
    family.init_weights(model, 0)
    model.train()
    optimizer = AdamW(model, weight_decay=workload.WEIGHT_DECAY)
    no_processor = SimpleNamespace(save=lambda folder: None)  # some kilobytes of text in a real run
    return Parts(RunConfig(), family, model_config, model, no_processor, optimizer, activation.runtime)


def activate(arguments: argparse.Namespace) -> Any:
    """The device; this process may start itself again for its settings."""
    import mix_core.device as device

    run = device.Workload(model="qwen2_5_vl", mode="train")
    return device.activate(arguments.device, workload=run, allow_reexec=True)


def measure(arguments: argparse.Namespace, activation: Any, folder: Path) -> dict[str, Any]:
    """Train and save in this process."""
    from mix_core.device.ranks import Job
    from mix_core.training.parallel import Ranks
    from mix_core.training.saving import Saver
    from mix_core.training.snapshot import Progressed

    parts = make_parts(arguments, activation)
    batch = workload.batch(workload.SIZES[arguments.size], arguments.seq)
    saver = Saver(folder, parts, Ranks(Job()), limit=2)
    stalls: list[float] = []
    quiet: list[float] = []
    beside: list[float] = []

    def step() -> float:
        started = time.perf_counter()
        loss_sum, labels = parts.model.loss(batch)
        (loss_sum / labels).backward()
        parts.optimizer.step(workload.LEARNING_RATE)
        parts.optimizer.clear_grad()
        activation.runtime.synchronize()
        return time.perf_counter() - started

    saver.prepare()
    for _ in range(workload.WARM_UP_STEPS):
        step()
    saver.wait()
    began = time.perf_counter()
    for number in range(1, arguments.steps + 1):
        (beside if saver.writes else quiet).append(step())
        if number % arguments.every == 0:
            started = time.perf_counter()
            saver.save(Progressed(number, number), goes_on=True)
            stalls.append(time.perf_counter() - started)
    wall = time.perf_counter() - began
    saver.wait()
    saver.close()
    summary = saver.summary()
    copy = copy_seconds(int(summary["buffer_bytes"]))
    stall = max(stalls)
    return {
        "size": arguments.size,
        "params": sum(int(one.size) for one in parts.model.parameters()),
        "buffer_mib": summary["buffer_bytes"] / 2**20,
        "saves": len(stalls),
        "stall_ms": stall * 1e3,
        "median_stall_ms": statistics.median(stalls) * 1e3,
        "copying_ms": summary["copying_s"] / len(stalls) * 1e3,
        "copy_ms": copy * 1e3,
        "ratio_stall": stall / copy,
        "share": sum(stalls) / wall,
        "step_ms": statistics.median(quiet) * 1e3,
        "slower": statistics.median(beside) / statistics.median(quiet) if beside else 1.0,
        "writing_s": summary["writing_s"] / len(stalls),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=sorted(workload.SIZES), default="mini")
    parser.add_argument("--seq", type=int, default=1024, help="tokens of a step")
    parser.add_argument("--every", type=int, default=20, help="steps between checkpoints")
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder if not given")
    arguments = parser.parse_args()
    if not 0 < arguments.every <= arguments.steps:
        parser.error(f"--every {arguments.every} saves nothing in {arguments.steps} steps")
    activation = activate(arguments)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        workload.print_line(measure(arguments, activation, Path(folder)))


if __name__ == "__main__":
    main()
