"""When the stages of a pipeline compute and when they wait in one training step, and a picture of it.

    pipeline_step.py --out plain.json
    pipeline_step.py --virtual 2 --out pieces.json
    pipeline_step.py --draw docs/images/pipeline-step.svg plain.json pieces.json

Stages are processes with a simulated device and a thread each, so that a machine needs as many cores as there
are stages for them to work at once. Every pass is workload.py's row. What each stage does is timed with a
wait for its device; the picture is of the last step.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import workload
from drawing import bar, page, text

WARM_UP_STEPS = 2
COLOURS = {"forward": "#1f5fa8", "backward": "#d9730d", "receive": "#e3e3e3"}
SAID = {"forward": "forward", "backward": "back", "receive": "waits for a message"}
WIDTH, LEFT, BAR, ROW = 900, 90, 780, 34
"""Of the picture, in pixels: its width, where bars begin, the longest bar, and a stage's row."""


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Start a rank for each stage and gather what they noted."""
    with tempfile.TemporaryDirectory() as folder:
        devices = ",".join(map(str, range(arguments.stages)))
        launcher = [sys.executable, "-m", "paddle.distributed.launch", "--devices", devices]
        own = [str(Path(__file__).resolve()), "--rank", folder]
        for name in ("stages", "virtual", "passes", "size", "seq", "steps"):
            own += [f"--{name}", str(getattr(arguments, name))]
        command = [sys.executable, "-m", "mix_core.cli.main", "run", "--device", "npu", "--simulate", "--"]
        environ = os.environ | {"MIX_SIM_DEVICES": str(arguments.stages), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*command, *launcher, "--log_dir", f"{folder}/log", *own],
            env=environ,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            logs = [path.read_text()[-2000:] for path in sorted(Path(folder, "log").glob("workerlog.*"))]
            sys.exit("\n".join([done.stderr[-2000:], *logs]))
        files = [Path(folder) / f"{stage}.json" for stage in range(arguments.stages)]
        moments = [one for path in files for one in json.loads(path.read_text())]
    first = min(one["start"] for one in moments)
    for one in moments:
        one["start"], one["end"] = ((one[key] - first) * 1e3 for key in ("start", "end"))
    step_ms = max(one["end"] for one in moments)
    busy = sum(one["end"] - one["start"] for one in moments if one["kind"] in ("forward", "backward"))
    names = ("stages", "virtual", "passes", "size", "seq")
    told = {name: getattr(arguments, name) for name in names}
    return told | {"step_ms": step_ms, "computing": busy / step_ms / arguments.stages, "moments": moments}


def be_a_stage(arguments: argparse.Namespace) -> None:
    """Train as one stage and write down the last step."""
    import mix_core.device as device

    activation = device.activate()
    from contextlib import nullcontext

    import paddle.distributed as dist

    from mix_core.config import load_config
    from mix_core.device.ranks import job_of
    from mix_core.models.registry import get_family
    from mix_core.training.layout import layout_of
    from mix_core.training.optimizer import AdamW
    from mix_core.training.parallel import Ranks
    from mix_core.training.pipeline.engine import Moment, Pipeline
    from mix_core.training.pipeline.split import pieces_of
    from mix_core.training.pipeline.stage import Stage
    from mix_core.training.throughput import StepClock

    job, size = job_of(os.environ), workload.SIZES[arguments.size]
    keys = {"pipeline_parallel_degree": arguments.stages, "virtual_pp_degree": arguments.virtual}
    config = load_config(
        arguments={name: str(value) for name, value in (keys | {"max_length": arguments.seq}).items()}
    )
    ranks = Ranks(job, layout_of(config, job.ranks))
    family = get_family("qwen2_5_vl")
    model_config = family.config_from_dict(workload.config_dict(size))
    model = family.build(model_config)
    family.init_weights(model, 0)
    model.train()
    counts = model.cuts.count(name for name, _ in model.named_parameters())
    pieces = pieces_of(config, arguments.stages, counts, family.outline(model_config), True)
    stage = Stage(model, pieces, ranks.groups)
    optimizer = AdamW(model, weight_decay=workload.WEIGHT_DECAY, ranks=ranks, stage=stage)
    stage.release()
    batch = workload.batch(size, arguments.seq)
    pipeline = Pipeline(stage, nullcontext, StepClock(activation.runtime.synchronize))
    moments: list[Moment] = []
    for step in range(WARM_UP_STEPS + arguments.steps):
        if step == WARM_UP_STEPS + arguments.steps - 1:
            pipeline.trace = moments
        dist.barrier()
        loss, labels = pipeline.run([batch] * arguments.passes, 1.0, lambda _: None)
        ranks.sum_passes(optimizer, loss)
        optimizer.step(workload.LEARNING_RATE, grad_scale=1 / labels)
        optimizer.clear_grad()
    noted = [
        {
            "stage": job.rank,
            "kind": one.action.kind,
            "piece": one.action.piece,
            "pass": one.action.number,
            "goes_back": one.action.goes_back,
            "start": one.start,
            "end": one.end,
        }
        for one in moments
    ]
    (Path(arguments.rank) / f"{job.rank}.json").write_text(json.dumps(noted))


def draw(measured: list[dict[str, Any]]) -> str:
    """An SVG: for each step a row a stage, from the left to the right in one scale of time."""
    scale = BAR / max(one["step_ms"] for one in measured)
    rows = sum(one["stages"] for one in measured)
    height = 56 + rows * ROW + len(measured) * 34
    said = []
    for place, kind in enumerate(COLOURS):
        x = LEFT + place * 110
        said.append(f'<rect x="{x}" y="14" width="12" height="12" fill="{COLOURS[kind]}"/>')
        said.append(text(x + 17, 25, SAID[kind]))
    y = 44.0
    for one in measured:
        pieces = f", {one['virtual']} pieces each" if one["virtual"] > 1 else ""
        told = (
            f"{one['stages']} stages{pieces}, {one['passes']} passes of {one['seq']} tokens ({one['size']})"
        )
        share = f"{one['step_ms']:.0f} ms, of which stages compute {100 * one['computing']:.0f} %"
        said.append(text(LEFT, y + 14, f"{told}: {share}"))
        y += 22
        for stage in range(one["stages"]):
            said.append(text(LEFT - 10, y + 19, f"stage {stage}", anchor="end"))
            said += [_bar(moment, y, scale, one["stages"]) for moment in _shown(one, stage)]
            y += ROW
        y += 12
    return page(WIDTH, height, said)


def _shown(one: dict[str, Any], stage: int) -> list[dict[str, Any]]:
    return [m for m in one["moments"] if m["stage"] == stage and m["kind"] in COLOURS]


def _bar(moment: dict[str, Any], y: float, scale: float, stages: int) -> str:
    """One action: its colour says what, its number the pass; later pieces of a stage are lighter."""
    x, width = LEFT + moment["start"] * scale, (moment["end"] - moment["start"]) * scale
    kind = moment["kind"]
    shade = ' fill-opacity="0.65"' if moment["piece"] >= stages and kind != "receive" else ""
    title = f"{SAID[kind]}, piece {moment['piece']}, pass {moment['pass']}: {width / scale:.1f} ms"
    drawn = bar(x, y, width, 28, COLOURS[kind], title=title, shade=shade)
    if kind == "receive" or width < 14:
        return drawn
    return drawn + text(x + width / 2, y + 18, str(moment["pass"] + 1), anchor="middle", fill="white")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stages", type=int, default=2)
    parser.add_argument("--virtual", type=int, default=1, help="pieces of the model on each stage")
    parser.add_argument("--passes", type=int, default=6)
    parser.add_argument("--size", choices=sorted(workload.SIZES), default="tiny")
    parser.add_argument("--seq", type=int, default=512, help="tokens of a pass")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the JSON there too")
    parser.add_argument("--draw", type=Path, help="draw the steps named instead of measuring one")
    parser.add_argument("--rank", help=argparse.SUPPRESS)
    parser.add_argument("measured", nargs="*", type=Path, help="for --draw: files that --out wrote")
    arguments = parser.parse_args()
    if (arguments.draw is None) != (not arguments.measured):
        parser.error("--draw needs measured steps, and they need --draw")
    if arguments.rank is not None:
        be_a_stage(arguments)
        return
    if arguments.draw is not None:
        found = [json.loads(path.read_text(encoding="utf-8")) for path in arguments.measured]
        arguments.draw.write_text(draw(found), encoding="utf-8")
        return
    measured = measure(arguments)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(measured), encoding="utf-8")
    print(json.dumps({key: value for key, value in measured.items() if key != "moments"}))


if __name__ == "__main__":
    main()
