"""Where the wall time of a training step goes, by kind of operator, and a picture of several such profiles.

    profile_step.py --kernels reference --label before --out before.json
    profile_step.py --kernels auto --label after --out after.json
    profile_step.py --draw docs/images/step.svg before.json after.json

The step is that of train_step.py. Going forward, a profile function of Python (sys.setprofile) times the
calls of `mix_core.ops`; going backward, Paddle's profiler times the nodes of autograd. Both slow a step
down, so the parts are shares of profiled steps, given in milliseconds of one that was not profiled.
"""

from __future__ import annotations

import argparse
import html
import json
import re
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import workload

KINDS = (
    ("optimizer", "adamw"),
    ("head and loss", "head|cross_?entropy"),
    ("attention", "attention|attend|softmax"),
    ("norms", "norm"),
    ("rotary", "rotary|turn"),
    ("products", "linear|product|matmul|affine|mlp|qkv"),
    ("activation", "swiglu|gelu|silu"),
)
"""Kind, and what names of operators and of autograd's nodes contain; the first that fits counts."""
REST = "the rest"
ORDER = ("products", "attention", "norms", "rotary", "activation", "head and loss", "optimizer", REST)
NODE = re.compile(r"Global_(.+?)(\[|$)")
PROFILED_STEPS = 3
SHADES = ("#1f5fa8", "#d9730d", "#3a8f4a", "#a8323e", "#7552a0", "#7a5548", "#b8578f", "#8a8a8a")
COLOURS = dict(zip(ORDER, SHADES))
WIDTH, LEFT, BAR, ROW = 900, 110, 690, 52
"""Of the picture, in pixels: its width, where bars begin, the longest bar, and a row of bars."""


def kind_of(name: str) -> str:
    found = (kind for kind, words in KINDS if re.search(words, name.lower()))
    return next(found, REST)


class Calls:
    """Seconds inside of given functions, outermost call only, by a profile function of Python."""

    def __init__(self, functions: dict[str, Callable[..., Any]]) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._names: dict[CodeType, str] = {}
        for name, function in functions.items():
            while hasattr(function, "__wrapped__"):
                function = function.__wrapped__
            self._names[function.__code__] = name
        self._outermost: FrameType | None = None
        self._started = 0.0

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            if self._outermost is None and frame.f_code in self._names:
                self._outermost, self._started = frame, time.perf_counter()
        elif event == "return" and frame is self._outermost:
            self.seconds[self._names[frame.f_code]] += time.perf_counter() - self._started
            self._outermost = None


def backward_nodes(trace: Path) -> dict[str, float]:
    """Milliseconds of autograd's nodes by name, from the profiler's file."""
    found: dict[str, float] = defaultdict(float)
    for event in json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]:
        node = NODE.match(event["name"]) if event.get("cat") == "Operator" else None
        if node is not None:
            found[node[1]] += event["dur"] / 1e3
    return found


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    import mix_core.device as device
    from mix_core.models.registry import get_family

    run = device.Workload(model="qwen2_5_vl", mode="train", dtype=arguments.dtype)
    activation = device.activate("cpu", workload=run, kernels=arguments.kernels, allow_reexec=True)
    from paddle.profiler import Profiler, ProfilerTarget

    from mix_core import ops
    from mix_core.training.optimizer import AdamW
    from mix_core.training.precision import Precision

    precision = Precision.of(arguments.dtype, "O1", activation)
    size = workload.SIZES[arguments.size]
    family = get_family("qwen2_5_vl")
    model = family.build(family.config_from_dict(workload.config_dict(size)))
    family.init_weights(model, 0)
    model.train()
    optimizer = AdamW(model, weight_decay=workload.WEIGHT_DECAY)
    batch = workload.batch(size, arguments.seq)
    calls = Calls({name: getattr(ops, name) for name in ops.__all__})

    def step(profile: Calls | None = None) -> float:
        started = time.perf_counter()
        with precision.computing():
            sys.setprofile(profile)
            loss_sum, labels = model.loss(batch)
            sys.setprofile(None)
            (loss_sum / labels).backward()
        sys.setprofile(profile)
        optimizer.step(workload.LEARNING_RATE)
        sys.setprofile(None)
        optimizer.clear_grad()
        return (time.perf_counter() - started) * 1e3

    for _ in range(workload.WARM_UP_STEPS):
        step()
    step_ms = statistics.median(step() for _ in range(arguments.steps))
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        # told where to write, or it makes a folder in the working one
        profiler = Profiler(
            targets=[ProfilerTarget.CPU], on_trace_ready=lambda one: one.export(str(trace), "json")
        )
        profiler.start()
        profiled_ms = sum(step(calls) for _ in range(PROFILED_STEPS))
        profiler.stop()
        nodes = backward_nodes(trace)
    spent: dict[str, float] = defaultdict(float)
    for name, seconds in calls.seconds.items():
        spent[kind_of(name)] += seconds * 1e3
    for name, milliseconds in nodes.items():
        spent[kind_of(name)] += milliseconds
    spent[REST] += profiled_ms - sum(spent.values())
    names = ("label", "kernels", "size", "dtype", "seq")
    told = {name: getattr(arguments, name) for name in names}
    parts = {kind: round(spent[kind] / profiled_ms * step_ms, 2) for kind in ORDER}
    return told | {"step_ms": step_ms, "profiled_step_ms": profiled_ms / PROFILED_STEPS, "parts_ms": parts}


def draw(profiles: list[dict[str, Any]]) -> str:
    """An SVG with a bar for each profile, its parts side by side and its length its time."""
    longest = max(profile["step_ms"] for profile in profiles)
    scale, height = BAR / longest, 76 + ROW * len(profiles)
    size, seq = profiles[0]["size"], profiles[0]["seq"]
    said = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        text(LEFT, 20, f"milliseconds of a training step ({size}, {seq} tokens)"),
    ]
    for place, kind in enumerate(ORDER):
        x = LEFT + place * 97
        said.append(f'<rect x="{x}" y="34" width="12" height="12" fill="{COLOURS[kind]}"/>')
        said.append(text(x + 16, 45, kind, size=12))
    for row, profile in enumerate(profiles):
        x, y = float(LEFT), 64 + row * ROW
        said.append(text(LEFT - 10, y + 24, profile["label"], anchor="end"))
        for kind in ORDER:
            width = profile["parts_ms"][kind] * scale
            said.append(
                f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="38" fill="{COLOURS[kind]}">'
                f"<title>{kind}: {profile['parts_ms'][kind]:.0f} ms</title></rect>"
            )
            if width > 32:
                number = f"{profile['parts_ms'][kind]:.0f}"
                said.append(text(x + width / 2, y + 24, number, anchor="middle", fill="white"))
            x += width
        said.append(text(x + 8, y + 24, f"{profile['step_ms']:.0f} ms"))
    return "\n".join([*said, "</svg>"]) + "\n"


def text(
    x: float, y: float, words: str, *, anchor: str = "start", fill: str = "black", size: int = 13
) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} fill="{fill}" font-size="{size}">{html.escape(words)}</text>'


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    workload.add_arguments(parser)
    parser.add_argument("--kernels", choices=("auto", "reference"), default="auto")
    parser.add_argument("--label", help="name of the profile's bar; otherwise what --kernels says")
    parser.add_argument("--out", type=Path, help="write the JSON there too")
    parser.add_argument("--draw", type=Path, help="draw the profiles named instead of measuring one")
    parser.add_argument("profiles", nargs="*", type=Path, help="for --draw: files that --out wrote")
    arguments = parser.parse_args()
    if (arguments.draw is None) != (not arguments.profiles):
        parser.error("--draw needs profiles, and profiles need --draw")
    if arguments.draw is not None:
        profiles = [json.loads(path.read_text(encoding="utf-8")) for path in arguments.profiles]
        arguments.draw.write_text(draw(profiles), encoding="utf-8")
        return
    arguments.label = arguments.label or arguments.kernels
    from mix_core.cli.main import guarded

    def run() -> None:
        line = measure(arguments)
        workload.print_line(line)
        if arguments.out is not None:
            arguments.out.write_text(json.dumps(line, indent=1) + "\n", encoding="utf-8")

    sys.exit(guarded(run, []))


if __name__ == "__main__":
    main()
