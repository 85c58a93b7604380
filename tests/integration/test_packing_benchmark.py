"""benchmarks/packing.py prints what it promises, and best fit fills at least what the others do."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.environment import clean_environment

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "packing.py"


def lines(*words: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *words],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_slots_of_the_three_ways():
    found = lines("--samples", "3000")
    assert len(found) == 4
    for line in found:
        assert line["filled_best_fit"] > max(line["filled_sequential"], line["filled_padded"])
        assert line["ratio_to_padded"] == pytest.approx(line["filled_best_fit"] / line["filled_padded"])
        assert line["ratio_to_sequential"] > 1
    assert all(line["filled_best_fit"] > 0.97 for line in found if "uniform" not in line["lengths"])


@pytest.mark.slow
def test_time_of_a_step():
    found = lines("--samples", "500", "--time", "--steps", "1", "--kernels", "reference")
    timed = [line for line in found if "scaled_to" in line]
    assert len(timed) == 4
    for line in timed:
        assert all(
            math.isfinite(line[key]) and line[key] > 0 for key in line if key.startswith(("tok_s", "ratio"))
        )
