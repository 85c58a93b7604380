"""A LoRA step beside a full one, both on mix-core: time and memory, and their ratios (LoRA / full).

The workload is train_step.py's; adapters are on all linear maps of the decoder, all else is frozen; `int8` is
LoRA over weights in 8 bits. Each kind runs in a process of its own, in turn; lines hold medians. `cpu_ms` is
the process's time on all processors, which other work on the machine changes less than `step_ms`. `peak_mib`
is the peak during the steps, and `model_mib` what the model takes before them, above what the process held
before it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from typing import Any

import workload

KINDS = ("full", "lora", "int8")


def measure_here(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one kind of step in this process."""
    import mix_core.device as device
    from mix_core.models.registry import get_family

    run = device.Workload(model="qwen2_5_vl", mode="train", dtype=arguments.dtype)
    activation = device.activate(arguments.device, workload=run, allow_reexec=True)
    from mix_core.models.common.adapters import AdapterSet
    from mix_core.models.common.lora import LoRASettings, add_adapter, init_adapter
    from mix_core.training.lora import NAME, targets
    from mix_core.training.optimizer import AdamW
    from mix_core.training.precision import Precision

    size = workload.SIZES[arguments.size]
    stats = activation.runtime.memory_stats
    before = stats()["allocated"]
    precision = Precision.of(arguments.dtype, "O1", activation)
    family = get_family("qwen2_5_vl")
    model = family.build(family.config_from_dict(workload.config_dict(size)))
    family.init_weights(model, 0)
    if arguments.kind != "full":
        for parameter in model.parameters():
            parameter.stop_gradient = True
        adapters = AdapterSet(model, family)
        maps = targets(adapters.maps, None)
        settings = LoRASettings(rank=arguments.rank, alpha=2 * arguments.rank, dora=arguments.dora)
        add_adapter(model, maps, NAME, settings)
        init_adapter(maps, NAME, 0)
        if arguments.kind == "int8":
            adapters.round_bases()
    optimizer = AdamW(model, weight_decay=workload.WEIGHT_DECAY)
    batch = workload.batch(size, arguments.seq)
    model.train()
    activation.runtime.empty_cache()
    model_bytes = stats()["allocated"] - before
    seconds, cpu_seconds = [], []
    for step in range(workload.WARM_UP_STEPS + arguments.steps):
        if step == workload.WARM_UP_STEPS:
            activation.runtime.reset_peak_memory()
        started, cpu_started = time.perf_counter(), time.process_time()
        with precision.computing():
            loss_sum, labels = model.loss(batch)
            (loss_sum / labels).backward()
        optimizer.step(workload.LEARNING_RATE)
        optimizer.clear_grad()
        activation.runtime.synchronize()
        seconds.append(time.perf_counter() - started)
        cpu_seconds.append(time.process_time() - cpu_started)
    return {
        "kind": arguments.kind,
        "size": arguments.size,
        "seq": arguments.seq,
        "learning": sum(int(parameter.size) for _, parameter in optimizer.named_parameters()),
        "step_ms": statistics.median(seconds[workload.WARM_UP_STEPS :]) * 1e3,
        "cpu_ms": statistics.median(cpu_seconds[workload.WARM_UP_STEPS :]) * 1e3,
        "model_mib": model_bytes / 2**20,
        "peak_mib": (stats()["peak"] - before) / 2**20,
    }


def run_kind(kind: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure one kind in a new process."""
    names = ("size", "dtype", "seq", "steps", "rank", "device")
    shared = [f"--{name}={getattr(arguments, name)}" for name in names]
    command = [sys.executable, __file__, f"--kind={kind}", *shared, *["--dora"] * arguments.dora]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    return json.loads(done.stdout.strip().splitlines()[-1])


def medians(lines: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        key: statistics.median(line[key] for line in lines) if isinstance(value, float) else value
        for key, value in lines[0].items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=sorted(workload.SIZES), default="mini")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--seq", type=int, default=1024, help="tokens of the row")
    parser.add_argument("--steps", type=int, default=5, help="measured steps of each process")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--dora", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=1, help="processes of each kind, in turn")
    parser.add_argument("--int8", action="store_true", help="measure LoRA over weights in 8 bits too")
    parser.add_argument("--kind", choices=KINDS, help="measure in this very process (internal)")
    arguments = parser.parse_args()
    if arguments.kind is not None:
        from mix_core.cli.main import guarded

        sys.exit(guarded(lambda: workload.print_line(measure_here(arguments)), []))
    lines: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS[: 3 if arguments.int8 else 2]}
    for _ in range(arguments.rounds):
        for kind, of_kind in lines.items():
            of_kind.append(run_kind(kind, arguments))
    found = {kind: medians(of_kind) for kind, of_kind in lines.items()}
    for line in found.values():
        workload.print_line(line)
    for kind in list(found)[1:]:
        keys = ("step_ms", "cpu_ms", "peak_mib")
        ratios = {f"ratio_{key}": found[kind][key] / found["full"][key] for key in keys}
        workload.print_line({"kind": kind, **ratios})


if __name__ == "__main__":
    main()
