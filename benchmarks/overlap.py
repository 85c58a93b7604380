"""How much of the sums over two simulated devices a backward pass hides, with a slowed link.

    python benchmarks/overlap.py [--size mini] [--seq 256] [--steps 8] [--delay_ms 0 50 100]

Two ranks train the model of train_step.py on simulated NPUs. Each collective of the second rank is delayed
(the simulator's fault `rank:slow`), which costs no processor time, so that two cores do for two ranks.
Prints one JSON line for each delay: `plain_ms` and `overlap_ms`, a step without and with overlap_grad_reduce;
`messages`, those of gradients in a step; `hidden`, the share of their delay by which a step is shorter
with it. The delay of other collectives (counts, the loss) is in both.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import workload

WARM_UP_STEPS = 2


def rank_main(arguments: argparse.Namespace, out: Path) -> None:
    """One rank: the steps' milliseconds with and without overlap, written to OUT by the first rank."""
    import mix_core.device as device

    run = device.Workload(model="qwen2_5_vl", mode="train", world_size=2)
    activation = device.activate(workload=run)

    from mix_core.device.ranks import job_of
    from mix_core.models.registry import get_family
    from mix_core.training.loop import Stepper
    from mix_core.training.optimizer import AdamW
    from mix_core.training.parallel import Ranks
    from mix_core.training.schedule import Schedule
    from mix_core.training.stream import StepBatches
    from mix_core.training.summing import SummingAdamW

    ranks = Ranks(job_of(os.environ))
    family = get_family("qwen2_5_vl")
    batch = workload.batch(workload.SIZES[arguments.size], arguments.seq)
    found: dict[str, float] = {}
    for name in ("plain", "overlap"):
        model = family.build(family.config_from_dict(workload.config_dict(workload.SIZES[arguments.size])))
        family.init_weights(model, 0)
        model.train()
        optimizer = SummingAdamW(model, ranks) if name == "overlap" else AdamW(model)
        if isinstance(optimizer, SummingAdamW):
            found["messages"] = len(optimizer.buckets)
        schedule = Schedule(kind="constant", peak=workload.LEARNING_RATE, total_steps=100)
        stepper = Stepper(model, optimizer, schedule, max_grad_norm=1.0, seed=0, ranks=ranks)
        times = []
        for step in range(1, WARM_UP_STEPS + arguments.steps + 1):
            ranks.wait()
            started = time.perf_counter()
            stepper.take(step, StepBatches([batch], step, 0.0, False), started, 0.0)
            activation.runtime.synchronize()
            times.append((time.perf_counter() - started) * 1e3)
        found[f"{name}_ms"] = statistics.median(times[WARM_UP_STEPS:])
    if ranks.leads:
        out.write_text(json.dumps(found))


def measure(arguments: argparse.Namespace, delay_ms: int, folder: Path) -> dict[str, float]:
    """Start two ranks by Paddle's launcher -> what they found."""
    out = folder / f"{delay_ms}.json"
    own = [
        sys.executable,
        str(Path(__file__).resolve()),
        "--size",
        arguments.size,
        "--seq",
        str(arguments.seq),
    ]
    own += ["--steps", str(arguments.steps), "--rank_writes", str(out)]
    launcher = [
        sys.executable,
        "-m",
        "paddle.distributed.launch",
        "--devices",
        "0,1",
        "--log_dir",
        str(folder),
    ]
    command = [sys.executable, "-m", "mix_core.cli.main", "run", "--device", "npu", "--simulate", "--"]
    environ = os.environ | {"MIX_SIM_DEVICES": "2", "OMP_NUM_THREADS": "1"}
    if delay_ms:
        environ["MIX_SIM_FAULTS"] = f"rank:slow,rank=1,ms={delay_ms}"
    done = subprocess.run([*command, *launcher, *own], env=environ, capture_output=True, text=True)
    if done.returncode or not out.is_file():
        raise SystemExit(f"the ranks failed: {done.stdout[-2000:]}{done.stderr[-2000:]}; logs in {folder}")
    return dict(json.loads(out.read_text()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=sorted(workload.SIZES), default="mini")
    parser.add_argument("--seq", type=int, default=256, help="tokens of a step")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--delay_ms", type=int, nargs="+", default=[0, 50, 100])
    parser.add_argument("--rank_writes", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank_writes is not None:
        rank_main(arguments, arguments.rank_writes)
        return
    for delay_ms in arguments.delay_ms:
        with tempfile.TemporaryDirectory() as folder:
            line = measure(arguments, delay_ms, Path(folder))
        shorter = line["plain_ms"] - line["overlap_ms"]
        line["hidden"] = shorter / (line["messages"] * delay_ms) if delay_ms else 0.0
        workload.print_line({"size": arguments.size, "delay_ms": delay_ms} | line)


if __name__ == "__main__":
    main()
