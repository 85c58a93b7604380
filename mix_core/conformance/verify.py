"""`mix-core verify`: the short form of the suite for users, with their own model.

The model runs on the device and in float32 on the host, each in a process of its own: a forward pass whose
logits are compared, then training steps whose losses are. Gates: float32, 1 % at each step; mixed precision,
2 % on average.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from mix_core.conformance.target import HOST, host_environment
from mix_core.errors import BadInputError, RunFailedError
from mix_core.models.common.hub import resolve_model_folder
from mix_core.training.checkpoint import checkpoint_step

STEPS = 20
STEP_GATE, MEAN_GATE = 0.01, 0.02
LOGITS = {"float32": 1e-4, "bfloat16": 6e-2, "float16": 1e-2}
RESULT = "verify.json"


def verify(
    model: str, device: str, *, simulated: bool = False, dtype: str = "float32", steps: int = STEPS
) -> tuple[dict[str, Any], Path]:
    """Compare device and host on a model folder -> (the result, the file it was written to).

    Raises:
        BadInputError: the folder, dtype or number of steps cannot be used.
        RunFailedError: one of the two sides did not end.
    """
    if dtype not in LOGITS:
        raise BadInputError(f"--dtype is {dtype!r}, expected {', '.join(LOGITS)}")
    if steps < 1:
        raise BadInputError(f"--steps is {steps}, expected 1 or more")
    folder = Path(resolve_model_folder(model))
    plan = {"folder": str(folder.resolve()), "steps": steps}
    here = _side(plan | {"device": device, "simulated": simulated, "dtype": dtype, "kernels": "auto"})
    host = _side(plan | {"device": HOST, "simulated": False, "dtype": "float32", "kernels": "reference"})
    result = _compare(here, host, dtype)
    result |= {"model": model, "device": device, "simulated": simulated, "dtype": dtype, "steps": steps}
    result["made"] = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    path = (folder.parent if checkpoint_step(folder) is not None else folder) / RESULT
    try:
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise BadInputError(f"{path} cannot be written: {error.strerror}") from None
    return result, path


def _side(plan: dict[str, Any]) -> dict[str, np.ndarray]:
    with tempfile.TemporaryDirectory(prefix="mix-verify-") as name:
        source, out = Path(name) / "plan.json", Path(name) / "side.npz"
        source.write_text(json.dumps(plan), encoding="utf-8")
        kept = {k: v for k, v in os.environ.items() if k.startswith("MIX_SIM_")} if plan["simulated"] else {}
        command = [sys.executable, "-W", "ignore", "-m", "mix_core.conformance.verify_side"]
        done = subprocess.run(
            [*command, str(source), str(out)], env=host_environment() | kept, capture_output=True, text=True
        )
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["nothing"])[-1]
            raise RunFailedError(f"the model did not run on {plan['device']}: {last}")
        with np.load(out) as arrays:
            return dict(arrays)


def _compare(here: dict[str, np.ndarray], host: dict[str, np.ndarray], dtype: str) -> dict[str, Any]:
    """What is right, what is not, and the first layer that differs where something is not."""
    off = np.abs(here["losses"] - host["losses"]) / np.abs(host["losses"])
    off = np.where(np.isfinite(off), off, np.inf)
    distance = _distance(here["logits"], host["logits"])
    mixed = dtype != "float32"
    seen, gate = (float(off.mean()), MEAN_GATE) if mixed else (float(off.max()), STEP_GATE)
    problems = []
    if not distance <= LOGITS[dtype]:
        problems.append(f"logits are off by {distance:.2e} in norm, at most {LOGITS[dtype]:.0e}")
    if not seen <= gate:
        step = int(np.argmax(off > gate)) + 1
        how = "on average" if mixed else f"at worst, first beyond at step {step}"
        problems.append(f"losses are off by {seen:.2%} {how}, at most {gate:.0%}")
    return {
        "ok": not problems,
        "problems": problems,
        "first_layer": _first_layer(here, host, LOGITS[dtype]) if problems else None,
        "logits_distance": distance,
        "loss_distance": seen,
        "losses": here["losses"].tolist(),
        "losses_on_host": host["losses"].tolist(),
    }


def _first_layer(here: dict[str, np.ndarray], host: dict[str, np.ndarray], limit: float) -> str | None:
    """The first layer, in the order in which they end, whose output differs; None: only training differs."""
    for number, name in enumerate(host["names"]):
        one, other = here.get(f"layer.{number}"), host[f"layer.{number}"]
        if one is None or one.shape != other.shape or not _distance(one, other) <= limit:
            return str(name)
    return None


def _distance(found: np.ndarray, wanted: np.ndarray) -> float:
    if found.shape != wanted.shape:
        return float("inf")
    return float(np.linalg.norm(found - wanted) / max(float(np.linalg.norm(wanted)), 1e-12))
