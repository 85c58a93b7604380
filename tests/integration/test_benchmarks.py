"""The programs of benchmarks/ start, end and print what they promise; what they measure is nobody's test."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mix_core.device import cpu, native
from tests.environment import clean_environment

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SHORT = ("--size", "tiny", "--seq", "96", "--steps", "1", "--decode", "2")
MEASURED = {"step_ms", "train_tok_s", "rss_mib", "prefill_ms", "decode_tok_s"}


def start(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / words[0]), *words[1:]]
    return subprocess.run(
        command, env=clean_environment(), cwd=folder, capture_output=True, text=True, timeout=240
    )


def lines(folder: Path, *words: str) -> list[dict[str, Any]]:
    done = start(folder, *words)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_training_step_beside_its_peer(tmp_path):
    ours, peer, ratios = lines(tmp_path, "train_step.py", *SHORT, "--peer")
    assert set(ours) == set(peer) > MEASURED
    assert ours["params"] == peer["params"]
    # one architecture, two random initialisations: the loss of either is near that of guessing
    assert ours["loss"] == pytest.approx(peer["loss"], rel=0.05)
    assert set(ratios) == {f"ratio_{name}" for name in MEASURED}
    assert ratios["ratio_step_ms"] == pytest.approx(peer["step_ms"] / ours["step_ms"])
    assert ratios["ratio_decode_tok_s"] == pytest.approx(ours["decode_tok_s"] / peer["decode_tok_s"])


def test_products_in_bfloat16(tmp_path):
    done = start(tmp_path, "train_step.py", *SHORT, "--dtype", "bfloat16")
    if cpu.narrow_products() and native.find_compiler()[0]:
        line = json.loads(done.stdout)
        assert line["dtype"] == "bfloat16" and math.isfinite(line["loss"])
    else:
        assert done.returncode == 2
        assert "dtype is bfloat16, but device cpu computes in float32" in done.stderr
