"""How much memory each rank of a layout needs, and a picture of it.

    memory_by_rank.py --out docs/images/memory-by-rank.svg

Trains a few steps of one model, by the command of users, in each layout: the same global batch on one
simulated NPU and on four. Prints a JSON line for each layout: `peak_mib` by rank, the most that the device
gave out over the whole run, loading included, in the pieces in which Paddle takes it. Needs mix-device-npu.
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

from drawing import bar, page, text

import mix_core

RECIPE = Path(mix_core.__file__).parent / "recipes" / "digits"
DEVICES = 4
MIB = 1 << 20
DECODER = {
    "tiny": {},
    "mini": {
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "num_hidden_layers": 8,
        "vocab_size": 16000,
        "rope_scaling": {"type": "mrope", "mrope_section": [8, 12, 12]},
    },
}
"""What is other than in the digits recipe's model."""
SHARDED = ("--sharding_parallel_degree", str(DEVICES))
LAYOUTS: dict[str, tuple[int, tuple[str, ...]]] = {
    "one device": (1, ()),
    "data 4": (DEVICES, ()),
    "sharding stage 1": (DEVICES, ("--sharding", "stage1", *SHARDED)),
    "sharding stage 2": (DEVICES, ("--sharding", "stage2", *SHARDED)),
    "sharding stage 3": (DEVICES, ("--sharding", "stage3", *SHARDED)),
    "tensor 2, data 2": (DEVICES, ("--tensor_parallel_degree", "2")),
    "tensor 2, pipeline 2": (DEVICES, ("--tensor_parallel_degree", "2", "--pipeline_parallel_degree", "2")),
    "pipeline 4": (DEVICES, ("--pipeline_parallel_degree", "4")),
}
"""Devices, and keys of the configuration."""
COLOUR = "#1f5fa8"
WIDTH, LEFT, BAR, THICK = 900, 170, 610, 13
"""Of the picture, in pixels: its width, where bars begin, the longest bar, and how thick one is."""


def write_model(folder: Path, size: str) -> None:
    """The recipe's model folder, with another size."""
    folder.mkdir()
    for path in (RECIPE / "model").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text(encoding="utf-8")) | DECODER[size]
    config["vision_config"] |= {"out_hidden_size": config["hidden_size"]}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def peaks_of(folder: Path, layout: str, steps: int, rows: int, length: int) -> list[float]:
    """Train in this layout -> MiB by rank."""
    devices, keys = LAYOUTS[layout]
    counters = folder / layout.replace(" ", "-").replace(",", "")
    counters.mkdir()
    words = ["--recipe", "digits", "--model_name_or_path", folder / "model", "--output_dir", counters / "run"]
    words += ["--device", "npu", "--simulate", "true", "--mixtoken", "false", "--max_length", length]
    words += ["--per_device_train_batch_size", rows, "--global_batch_size", rows * DEVICES]
    words += ["--max_steps", steps, "--do_eval", "false", "--save_strategy", "no", *keys]
    if devices > 1:
        words += ["--devices", ",".join(map(str, range(devices)))]
    environ = os.environ | {"OMP_NUM_THREADS": "1", "MIX_SIM_DEVICES": str(devices)}
    environ["MIX_SIM_COUNTERS"] = str(counters / "%p.json")
    command = [sys.executable, "-m", "mix_core.train", *map(str, words)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{layout}: {done.stdout[-1000:]}{done.stderr[-2000:]}")
    found = [0] * devices
    for path in counters.glob("*.json"):
        memory = json.loads(path.read_text(encoding="utf-8"))["memory"]
        found = [max(one, seen["peak"]) for one, seen in zip(found, memory, strict=True)]
    return [round(one / MIB, 1) for one in found]


def draw(found: dict[str, list[float]], told: str) -> str:
    """A row of bars for each layout, a bar for each rank."""
    scale = BAR / max(max(peaks) for peaks in found.values())
    said, y = [text(LEFT, 22, told)], 36.0
    for layout, peaks in found.items():
        said.append(text(LEFT - 12, y + len(peaks) * THICK / 2 + 5, layout, anchor="end"))
        for rank, peak in enumerate(peaks):
            title = f"{layout}, rank {rank}: {peak:.0f} MiB"
            said.append(bar(LEFT, y, peak * scale, THICK, COLOUR, title=title))
            said.append(text(LEFT + peak * scale + 6, y + THICK - 2, f"{peak:.0f} MiB"))
            y += THICK + 1
        y += 14
    return page(WIDTH, y, said)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=sorted(DECODER), default="mini")
    parser.add_argument("--rows", type=int, default=2, help="of a pass; a step has four times as many")
    parser.add_argument("--length", type=int, default=128, help="tokens of a row at most")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--layouts", nargs="+", choices=list(LAYOUTS), default=list(LAYOUTS), metavar="NAME")
    parser.add_argument("--out", type=Path, help="draw the picture there")
    arguments = parser.parse_args()
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        write_model(Path(name) / "model", arguments.size)
        for layout in arguments.layouts:
            found[layout] = peaks_of(Path(name), layout, arguments.steps, arguments.rows, arguments.length)
            line: dict[str, Any] = {"size": arguments.size, "layout": layout, "peak_mib": found[layout]}
            print(json.dumps(line), flush=True)
    if arguments.out is not None:
        told = f"Most device memory of each rank: {arguments.size}, {DEVICES * arguments.rows} rows a step"
        arguments.out.write_text(draw(found, told), encoding="utf-8")


if __name__ == "__main__":
    main()
