"""L5, training: 20 steps of the real loop on a tiny model, beside the host's."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from mix_core.conformance import tiny_runs
from mix_core.conformance.case import Case, Context, Group, Mismatch, expect
from mix_core.conformance.closeness import require_equal
from mix_core.conformance.host import reference
from mix_core.conformance.target import Target
from mix_core.device.profile import Capability

GROUP = Group("training", deterministic=True)
GOLDENS = Path(__file__).with_name("goldens")
LIVE, GOLDEN = 2e-4, 1e-3
"""Of float32 losses, relative, at each step: beside this machine's host, and beside another processor."""
MIXED_STEP, MIXED_MEAN = 0.05, 0.02
SLACK_BYTES = 1 << 12
NARROW = ("bfloat16", "float16")


def conformance_cases(target: Target) -> list[Case]:
    cases = []
    memory = "the host's statistics are those of the whole process" if target.is_host else None
    memory = memory or target.lacks(Capability.MEMORY_STATS)
    for family in tiny_runs.tiny_families():
        rows: list[tuple[str, str, str, Callable[[Context, str, str], None]]] = [
            ("curve", "float32", "20 losses are the host's on this machine", _live),
            ("golden", "float32", "20 losses are those of the golden file, to 1e-3", _golden),
            ("falls", "float32", "the loss falls", _falls),
            ("accumulation", "float32", "two passes of a batch step like one", _accumulation),
            (
                "deterministic",
                "float32",
                "two runs give the same losses and weights to the bit",
                _deterministic,
            ),
            ("memory", "float32", "ten steps more hold no more memory", _memory),
            ("resume", "float32", "a run that is resumed goes on to the bit", _resume),
        ]
        for dtype in NARROW:
            for level in ("O1", "O2"):
                rows.append(
                    (f"mixed_{level}", dtype, f"20 losses at {level} stay near float32's", _mixed(level))
                )
            rows.append(
                (
                    "deterministic",
                    dtype,
                    "two runs give the same losses and weights to the bit",
                    _deterministic,
                )
            )
            rows.append(("resume", dtype, "a run that is resumed goes on to the bit", _resume))
        for name, dtype, asks, run in rows:
            cases.append(
                Case(
                    f"L5/{family}/{name}/{dtype}",
                    f"{family} in {dtype}: {asks}",
                    GROUP,
                    lambda context, run=run, family=family, dtype=dtype: run(context, family, dtype),
                    dtype=dtype,
                    model=family,
                    unless=target.lacks_dtype(dtype) or (memory if name == "memory" else None),
                )
            )
    return cases


def _level(dtype: str) -> str:
    return "O0" if dtype == "float32" else "O2"


@lru_cache(maxsize=8)
def _curve(family: str, dtype: str, level: str) -> tuple[float, ...]:
    return tuple(tiny_runs.curve(family, dtype, level))


def _compare(
    context: Context, found: tuple[float, ...], wanted: list[float], limit: float, beside: str
) -> None:
    context.facts |= {"curve": list(found), "reference": list(wanted)}
    limit *= context.factor
    off = [abs(a - b) / abs(b) if np.isfinite(a) else float("inf") for a, b in zip(found, wanted)]
    step = int(np.argmax(off))
    context.note_distance(off[step], limit)
    if off[step] > limit:
        first = next(i for i, distance in enumerate(off) if distance > limit)
        raise Mismatch(
            f"the loss of step {step + 1} is {found[step]:.7g}, {beside} {wanted[step]:.7g}: off by "
            f"{off[step]:.2e}, at most {limit:.2e}; of {len(found)} steps the first beyond is {first + 1}"
        )


def _live(context: Context, family: str, dtype: str) -> None:
    wanted = reference(context.scratch, family, "curve")["losses"].tolist()
    _compare(context, _curve(family, dtype, "O0"), wanted, LIVE, "on the host")


def _golden(context: Context, family: str, dtype: str) -> None:
    path = GOLDENS / f"{family}.json"
    expect(
        path.is_file(),
        f"there is no golden file for {family}; python -m mix_core.conformance.goldens makes it",
    )
    golden = json.loads(path.read_text(encoding="utf-8"))
    context.facts["golden"] = golden["processor"]
    _compare(context, _curve(family, dtype, "O0"), golden["losses"], GOLDEN, f"on {golden['processor']}")


def _falls(context: Context, family: str, dtype: str) -> None:
    losses = _curve(family, dtype, "O0")
    expect(
        losses[-1] < 0.8 * losses[0], f"the loss went from {losses[0]:.4f} to {losses[-1]:.4f} in 20 steps"
    )


def _mixed(level: str) -> Callable[[Context, str, str], None]:
    def run(context: Context, family: str, dtype: str) -> None:
        wanted = reference(context.scratch, family, "curve")["losses"].tolist()
        found = _curve(family, dtype, level)
        mean = float(np.mean([abs(a - b) / b for a, b in zip(found, wanted)]))
        _compare(context, found, wanted, MIXED_STEP, "in float32 on the host")
        limit = MIXED_MEAN * context.factor
        expect(mean <= limit, f"losses are off by {mean:.2e} on average, at most {limit:.2e}")

    return run


def _accumulation(context: Context, family: str, dtype: str) -> None:
    once = tiny_runs.Training(family).steps(1, 4)
    twice = tiny_runs.Training(family).steps(1, 4, passes=2)
    _compare(context, tuple(twice), once, LIVE, "with one pass")


def _deterministic(context: Context, family: str, dtype: str) -> None:
    runs = []
    for _ in range(2):
        training = tiny_runs.Training(family, dtype, _level(dtype))
        runs.append((training.steps(1, 5), training.parameters()))
    (first, weights), (second, others) = runs
    require_equal("losses of the second run", np.array(second), np.array(first), "5 steps")
    for name, array in weights.items():
        require_equal(f"{name} of the second run", others[name], array, "5 steps")


def _memory(context: Context, family: str, dtype: str) -> None:
    assert context.active is not None
    runtime, training, held = context.active.runtime, tiny_runs.Training(family), []
    for first in (1, 4, 14):
        training.steps(first, first + (2 if first == 1 else 9))
        gc.collect()
        runtime.synchronize()
        held.append(runtime.memory_stats()["allocated"])
    expect(held[2] <= held[1] + SLACK_BYTES, f"after 3, 13 and 23 steps {held} bytes are allocated")


def _resume(context: Context, family: str, dtype: str) -> None:
    from mix_core.training.snapshot import Progressed

    whole = tiny_runs.Training(family, dtype, _level(dtype))
    with TemporaryDirectory(dir=context.scratch) as name:
        whole.steps(1, 3)
        whole.parts.capture(Progressed(3, 0), lambda tensor: tensor.numpy()).write(Path(name))
        rest = whole.steps(4, 6)
        again = tiny_runs.Training(family, dtype, _level(dtype))
        again.family.load_weights(again.model, Path(name))
        again.parts.restore(Path(name))
    require_equal(
        "losses of steps 4 to 6", np.array(again.steps(4, 6)), np.array(rest), "a run resumed at step 3"
    )
    wanted = whole.parameters()
    for name, array in again.parameters().items():
        require_equal(f"{name} after step 6", array, wanted[name], "a run resumed at step 3")
