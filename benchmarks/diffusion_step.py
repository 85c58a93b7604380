"""One training step of a small SD3 or SDXL network, or 20 steps of sampling, beside diffusers on PyTorch.

Prints one JSON line. With --peer: the peer's line second, and third the ratios (mix-core / peer: below 1,
mix-core is better). Each program runs in a process of its own; with --rounds they take turns, and the lines
hold medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import diffusion_workload as workload

PEER = Path(__file__).resolve().parent / "peers" / "diffusers_step.py"


def measure_here(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the workload on mix-core in this process."""
    import mix_core.device as device

    trains = arguments.task == workload.TRAIN
    run = device.Workload(model=arguments.model, mode="train" if trains else "infer", task="generation")
    activation = device.activate(arguments.device, workload=run, allow_reexec=True)
    import paddle

    from mix_core.models.diffusion.network import network
    from mix_core.models.diffusion.weights import draw_weights
    from mix_core.training.in_backward import BUNCH
    from mix_core.training.optimizer import AdamW

    source = workload.CONFIGS[arguments.model]
    kind = network(source["_class_name"])
    model = kind.build(kind.config_from_dict(source))
    draw_weights(model, 0, zeros=False)
    given = {name: paddle.to_tensor(array) for name, array in workload.inputs(arguments.model).items()}

    if trains:
        model.train()
        within = BUNCH if arguments.optimizer_in_backward else 0
        optimizer = AdamW(model, weight_decay=workload.WEIGHT_DECAY, in_backward=within)

    def train_step() -> float:
        loss = paddle.mean(paddle.square(model(**given)))
        optimizer.before_backward(loss, workload.LEARNING_RATE, 1.0)
        loss.backward()
        optimizer.after_pass()
        optimizer.step(workload.LEARNING_RATE)
        optimizer.clear_grad()
        activation.runtime.synchronize()
        return float(loss)

    def picture() -> float:
        return sample(model, arguments.model, given, arguments.sampling_steps)

    params = sum(int(parameter.size) for parameter in model.parameters())
    what = train_step if trains else picture
    return workload.measure(arguments, program="mix-core", params=params, run=what)


def sample(model: Any, name: str, given: dict[str, Any], steps: int) -> float:
    """The latents of one picture by guided steps; the mean of their squares."""
    import paddle

    from mix_core.schedulers.files import kind_of, make_scheduler

    class_name, config = workload.SCHEDULERS[name]
    walk = make_scheduler(kind_of(class_name), config).trajectory(steps)
    told = dict(given)
    first = "hidden_states" if name == "sd3" else "sample"
    latents = told.pop(first)[:1] * walk.init_sigma
    model.eval()
    with paddle.no_grad():
        for i, timestep in enumerate(walk.timesteps):
            x = walk.scaled(latents, i)
            told["timestep"] = float(timestep)
            away, towards = model(**{first: paddle.concat([x, x]), **told}).split(2)
            latents = walk.step(i, away + workload.GUIDANCE * (towards - away), latents)
    return float(paddle.mean(paddle.square(latents)))


def run_program(path: Path, arguments: argparse.Namespace, *extra: str) -> dict[str, Any]:
    """Run one program in a new process and return the JSON line that it printed last."""
    chosen = (f"--{name}={getattr(arguments, name)}" for name in ("model", "task", "steps", "sampling_steps"))
    command = [sys.executable, str(path), *chosen, *extra]
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
    workload.add_arguments(parser)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peer", action="store_true", help="measure diffusers on PyTorch too")
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

    own = ["--here", f"--device={arguments.device}"]
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
        time_ms = "step_ms" if arguments.task == workload.TRAIN else "sampling_ms"
        workload.print_line({f"ratio_{key}": ours[key] / peer[key] for key in (time_ms, "rss_mib")})


if __name__ == "__main__":
    main()
