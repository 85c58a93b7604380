"""What packing saves: slots and time for the same samples padded, packed in sequence, and packed by best fit.

    python benchmarks/packing.py [--samples 20000] [--million] [--time] [--size tiny] [--kernels reference]

Slots are the places that a step computes, padding included. `padded`: batches in the stream's order, each as
long as its longest sample. `sequential`: the next sample is appended while the row has room, else a new row
begins, and each row is padded to its capacity (MIXToken as PaddleMIX has it). `best fit`: an epoch of the
loader, with its bounded look-ahead. Prints a JSON line for each distribution of lengths; `ratio_*` above 1:
best fit is better. With --million, first one for a million samples: processor time, and the process's peak of
memory. With --time, another for a training step of a text-only Qwen2.5-VL: tokens that are no padding in a
second.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import packed_workload
import workload
from PIL import Image

import mix_core.recipes
from mix_core.data import digits
from mix_core.data.packed_epoch import PackedEpoch
from mix_core.data.packing import pack
from mix_core.models.registry import get_family

BATCH = 8
CAPACITY = 4096
TIMED_CAPACITY = 512
MILLION = 1_000_000
ENCODED_DIGITS = 1400
"""Samples of the digits whose lengths stand for all 28,000."""


def distributions(samples: int) -> dict[str, tuple[np.ndarray, int, int]]:
    """Name -> lengths, the capacity of a row, and rows in a pass."""
    rng = np.random.default_rng(0)
    tail = np.clip(np.exp(rng.normal(5.5, 1.0, samples)), 10, CAPACITY).astype(int)
    short = np.clip(np.exp(rng.normal(4.0, 1.2, samples)), 10, CAPACITY).astype(int)
    return {
        "uniform 10-4000": (rng.integers(10, 4001, samples), CAPACITY, 1),
        "log-normal, median 245, deviation e": (tail, CAPACITY, 1),
        "log-normal, median 55, deviation e^1.2": (short, CAPACITY, 1),
        "digits": (rng.choice(digit_lengths(), samples), 128, 21),
    }


def digit_lengths() -> list[int]:
    """Tokens of digits samples as the recipe encodes them, the three tasks in their shares."""
    folder = Path(mix_core.recipes.__file__).parent / "digits" / "model"
    processor = get_family("qwen2_5_vl").load_processor(folder)
    shares = digits.COUNTS["train"]
    lengths = []
    for task, share in shares.items():
        wanted = ENCODED_DIGITS * share // sum(shares.values())
        for picture in islice(digits.make_pictures("train", task), wanted):
            image = {"type": "image", "image": Image.fromarray(picture.pixels_HW)}
            asked = {"role": "user", "content": [image, {"type": "text", "text": digits.PROMPTS[task]}]}
            messages = [asked, {"role": "assistant", "content": picture.answer}]
            lengths.append(len(processor.encode(messages, max_length=None)["input_ids"]))
    return lengths


def million() -> dict[str, Any]:
    """A million samples of 10 to 4,000 tokens: this process's peak counts the lengths and the imports too."""
    lengths = np.random.default_rng(0).integers(10, 4001, MILLION)
    started = time.process_time()
    packs = sum(1 for _ in pack(lengths.tolist(), CAPACITY))
    seconds = time.process_time() - started
    peak = next(
        line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line
    )
    return {
        "lengths": "uniform 10-4000",
        "samples": MILLION,
        "capacity": CAPACITY,
        "pack_s": seconds,
        "peak_mb": int(peak) * 1024 / 1e6,
        "filled_best_fit": float(lengths.sum()) / (packs * CAPACITY),
    }


def padded_slots(lengths: np.ndarray, batch: int = BATCH) -> int:
    """Slots of batches in order, each as long as its longest sample."""
    return sum(len(part) * int(part.max()) for part in np.split(lengths, range(batch, len(lengths), batch)))


def sequential(lengths: Sequence[int], capacity: int) -> int:
    """Rows when the next sample is appended while there is room."""
    rows, room = 0, 0
    for length in lengths:
        if length > room:
            rows, room = rows + 1, capacity
        room -= length
    return rows


def count(name: str, lengths: np.ndarray, capacity: int, rows: int) -> dict[str, Any]:
    """Slots of the three ways."""
    listed = lengths.tolist()
    started = time.process_time()
    for _ in pack(listed, capacity):
        pass
    seconds = time.process_time() - started
    packs = PackedEpoch(len(listed), capacity * rows, listed.__getitem__).count()
    ways = {
        "padded": padded_slots(lengths),
        "sequential": sequential(listed, capacity) * capacity,
        "best_fit": packs * capacity * rows,
    }
    tokens = sum(listed)
    return {
        "lengths": name,
        "samples": len(listed),
        "mean": tokens / len(listed),
        "capacity": capacity,
        "rows": rows,
        **{f"filled_{way}": tokens / slots for way, slots in ways.items()},
        "ratio_to_padded": ways["padded"] / ways["best_fit"],
        "ratio_to_sequential": ways["sequential"] / ways["best_fit"],
        "pack_s_per_million": seconds / len(listed) * 1e6,
    }


def timed(name: str, lengths: np.ndarray, capacity: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Tokens in a second of one step in each way, lengths scaled down to TIMED_CAPACITY."""
    scaled = np.maximum(lengths * TIMED_CAPACITY // capacity, 1)
    first = next(pack(scaled.tolist(), TIMED_CAPACITY * arguments.rows))
    batches = {
        "padded": scaled[: arguments.rows * 4],
        "sequential": scaled[: len(first)],
        "best_fit": scaled[first],
    }
    rates = {way: _rate(way, parts, arguments) for way, parts in batches.items()}
    return {
        "lengths": name,
        "scaled_to": TIMED_CAPACITY,
        **{f"tok_s_{way}": rate for way, rate in rates.items()},
        "ratio_time_to_padded": rates["best_fit"] / rates["padded"],
        "ratio_time_to_sequential": rates["best_fit"] / rates["sequential"],
    }


def _rate(way: str, lengths: np.ndarray, arguments: argparse.Namespace) -> float:
    model, optimizer, synchronize = arguments.run
    batch = _batch(way, lengths, workload.SIZES[arguments.size].vocabulary)
    best = float("inf")
    for _ in range(arguments.steps + packed_workload.WARM_UP_STEPS):
        started = time.perf_counter()
        loss, labels = model.loss(batch)
        (loss / labels).backward()
        optimizer.step(workload.LEARNING_RATE)
        optimizer.clear_grad()
        synchronize()
        best = min(best, time.perf_counter() - started)
    return float(lengths.sum()) / best


def _batch(way: str, lengths: np.ndarray, vocabulary: int) -> dict[str, np.ndarray]:
    """Random tokens as this way lays them out."""
    rng = np.random.default_rng(1)
    parts = [rng.integers(0, vocabulary - 10, length) for length in lengths]
    if way == "best_fit":
        row = np.concatenate(parts)[None]
        ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        return {"input_ids": row, "labels": row, "cu_seqlens": ends}
    if way == "sequential":
        parts = _appended(parts)
    longest = TIMED_CAPACITY if way == "sequential" else int(lengths.max())
    ids = np.zeros((len(parts), longest), np.int64)
    labels, mask = np.full_like(ids, -100), np.zeros_like(ids)
    for row, part in enumerate(parts):
        ids[row, : len(part)] = labels[row, : len(part)] = part
        mask[row, : len(part)] = 1
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}


def _appended(parts: list[np.ndarray]) -> list[np.ndarray]:
    """Samples one behind the other in rows of TIMED_CAPACITY, as the original lays them out."""
    rows: list[list[np.ndarray]] = []
    for part in parts:
        if not rows or sum(map(len, rows[-1])) + len(part) > TIMED_CAPACITY:
            rows.append([])
        rows[-1].append(part)
    return [np.concatenate(row) for row in rows]


def start(arguments: argparse.Namespace) -> None:
    """The model that is timed, on the CPU."""
    import mix_core.device as device
    from mix_core.models.registry import get_family

    run = device.Workload(model="qwen2_5_vl", mode="train", dtype="float32")
    activation = device.activate("cpu", workload=run, kernels=arguments.kernels, allow_reexec=True)
    from mix_core.training.optimizer import AdamW

    family = get_family("qwen2_5_vl")
    model = family.build(family.config_from_dict(workload.config_dict(workload.SIZES[arguments.size])))
    family.init_weights(model, 0)
    model.train()
    arguments.run = (model, AdamW(model), activation.runtime.synchronize)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--time", action="store_true", help="time a training step too")
    parser.add_argument("--size", choices=sorted(workload.SIZES), default="tiny")
    parser.add_argument(
        "--rows", type=int, default=4, help=f"rows of {TIMED_CAPACITY} tokens in a timed step"
    )
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--kernels", choices=("auto", "reference"), default="auto")
    parser.add_argument("--million", action="store_true", help="pack a million samples first")
    arguments = parser.parse_args()
    if arguments.million:
        workload.print_line(million())
    if arguments.time:
        start(arguments)
    for name, (lengths, capacity, rows) in distributions(arguments.samples).items():
        workload.print_line(count(name, lengths, capacity, rows))
        if arguments.time:
            workload.print_line(timed(name, lengths, capacity, arguments))


if __name__ == "__main__":
    main()
