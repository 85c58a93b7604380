"""Run one quarter of the slow tests: `python scripts/slow_quarter.py QUARTER [pytest arguments]`.

Whole files are dealt out in turn, so that a file's costly fixtures (built wheels, a trained model) are made
once. QUARTER is 0 to 3. Prints which files this quarter holds. A quarter without a file is no failure.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
QUARTERS = 4
PYTEST_NONE_COLLECTED = 5


def slow_files() -> list[str]:
    """Test files with at least one slow test, sorted."""
    listing = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "slow", "tests"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listing.returncode not in (0, PYTEST_NONE_COLLECTED):
        sys.exit(listing.stdout + listing.stderr)
    return sorted({line.split("::")[0] for line in listing.stdout.splitlines() if "::" in line})


def quarter_of(files: list[str], quarter: int) -> list[str]:
    return files[quarter::QUARTERS]


def main() -> int:
    quarter, extra = int(sys.argv[1]), sys.argv[2:]
    if not 0 <= quarter < QUARTERS:
        sys.exit(f"quarter {quarter} does not exist: give 0 to {QUARTERS - 1}")
    chosen = quarter_of(slow_files(), quarter)
    print(f"slow tests, quarter {quarter} of 0..{QUARTERS - 1}: {' '.join(chosen) or 'no file'}", flush=True)
    if not chosen:
        return 0
    return subprocess.call([sys.executable, "-m", "pytest", "-m", "slow", *extra, *chosen], cwd=ROOT)


if __name__ == "__main__":
    sys.exit(main())
