"""Programs of several ranks end cleanly under `mix-core run`, with the form of store that it sets."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from tests.environment import clean_environment

PROGRAM = Path(__file__).parents[1] / "programs" / "store_exit.py"


def run(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mix_core.cli.main", "run", "--device", "cpu", "--", sys.executable]
    return subprocess.run(
        [*command, str(PROGRAM)],
        env=clean_environment() | variables,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_stores_process_outlives_a_rank_that_leaves(tmp_path):
    done = run(tmp_path)
    assert done.returncode == 3, done.stderr


def test_paddles_own_choice_of_store_does_not(tmp_path):
    # when this fails, Paddle has mended its store and mix_core/device/defaults.py need not choose
    done = run(tmp_path, FLAGS_tcp_store_using_libuv="1")
    assert done.returncode in (128 + signal.SIGABRT, 128 + signal.SIGSEGV, -signal.SIGABRT, -signal.SIGSEGV)
