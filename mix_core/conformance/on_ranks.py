"""L6, distributed: two ranks, each a process with a device of its own; collectives with real numbers, data
and tensor parallel training, a pipeline of two stages. Layouts join as they are built."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from mix_core.conformance.case import Case, Context, Group, Mismatch, expect
from mix_core.conformance.rank_program import COLLECTIVES, DTYPES, OTHERS
from mix_core.conformance.target import Target, host_environment
from mix_core.conformance.tiny_runs import divided_families, tiny_families
from mix_core.device import simulate
from mix_core.device.profile import Capability
from mix_core.errors import BadInputError

GROUP = Group("ranks", activates=False, timeout_s=280.0, variables=((simulate.DEVICES, "2"),))
PROGRAM = Path(__file__).with_name("rank_program.py")
RANKS = 2
TIMEOUT_S = 240.0


def conformance_cases(target: Target) -> list[Case]:
    rule = _rule(target)
    refused = target.profile.collective.dtypes_refused if target.profile.collective else frozenset()
    cases = []
    for name in COLLECTIVES:
        for dtype in DTYPES:
            unless = rule
            if dtype.startswith(("float", "bfloat")):
                unless = unless or target.lacks_dtype(dtype)
            if dtype in refused:
                unless = unless or f"the profile says that collectives refuse {dtype}"
            asks = f"{name} of {dtype} on two ranks gives numpy's numbers"
            cases.append(_case(f"L6/collective/{name}/{dtype}", asks, f"{name} {dtype}", unless, dtype=dtype))
    for name, asks in OTHERS.items():
        cases.append(_case(f"L6/collective/{name}", asks, name, rule))
    for family in tiny_families():
        for name, asks in (
            ("gradients", "summed gradients of two halves of the labels are those of the whole"),
            ("step", "after an update both ranks hold the same weights to the bit"),
        ):
            key = f"{family} {name}"
            cases.append(
                _case(f"L6/data_parallel/{family}/{name}", f"{family}: {asks}", key, rule, model=family)
            )
        asks = f"{family}: two passes through two stages of a pipeline give the gradients of the whole model"
        key = f"{family} pipeline"
        cases.append(_case(f"L6/pipeline/{family}/gradients", asks, key, rule, model=family))
    for family in divided_families():
        asks = f"{family}: two ranks that share every layer have the loss and the gradients of one"
        name = f"L6/tensor_parallel/{family}/gradients"
        cases.append(_case(name, asks, f"{family} tensor", rule, model=family))
    return cases


def _rule(target: Target) -> str | None:
    rule = target.lacks(Capability.COLLECTIVES)
    if rule is None and target.is_host:
        rule = "the host is one device; ranks of it join with the layouts"
    return rule


def _case(
    name: str, asks: str, key: str, unless: str | None, dtype: str | None = None, model: str | None = None
) -> Case:
    return Case(
        name, asks, GROUP, lambda context: _judge(context, key), dtype=dtype, model=model, unless=unless
    )


def _judge(context: Context, key: str) -> None:
    for rank, seen in enumerate(_launched(context.target.words, context.scratch)):
        said = seen["cases"].get(key)
        expect(said is not None, f"rank {rank} did not come to {key}: {seen.get('ended', 'it ended before')}")
        expect(not said, f"rank {rank}: {said}")


@lru_cache(maxsize=1)
def _launched(options: str, scratch: Path) -> list[dict[str, Any]]:
    """Run the program once for all cases; a rank's failure leaves what it has said so far."""
    folder = scratch / "ranks"
    folder.mkdir(exist_ok=True)
    launcher = ["-m", "paddle.distributed.launch", "--devices", "0,1", "--log_dir", str(folder / "log")]
    try:
        python = [sys.executable, "-W", "ignore"]
        run = [*python, "-m", "mix_core.cli.main", "run", *options.split(), "--"]
        done = subprocess.run(
            [*run, *python, *launcher, str(PROGRAM), str(folder)],
            env=_environment(),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
        ended = (done.stderr.strip().splitlines() or ["nothing"])[-1]
    except subprocess.TimeoutExpired:
        ended = f"the ranks did not end within {TIMEOUT_S:.0f} s"
    except BadInputError as error:
        raise Mismatch(str(error)) from None
    return [_said(folder, rank, ended) for rank in range(RANKS)]


def _environment() -> dict[str, str]:
    derived = (simulate.TYPE, simulate.OPERATORS, simulate.BYTES, simulate.REFUSED)
    kept = {k: v for k, v in os.environ.items() if k.startswith("MIX_SIM_") and k not in derived}
    return host_environment() | kept | {"MIX_SIM_TIMEOUT": os.environ.get("MIX_SIM_TIMEOUT", "30")}


def _said(folder: Path, rank: int, ended: str) -> dict[str, Any]:
    path = folder / f"{rank}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    cases = {key: said for line in lines for key, said in json.loads(line).items()}
    log = folder / "log" / f"workerlog.{rank}"
    last = (
        log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:] if log.is_file() else []
    )
    return {"cases": cases, "ended": "; ".join([*last, ended])}
