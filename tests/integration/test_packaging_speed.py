"""What the two commands that people type all the time cost, on top of starting Python.

Method: the median of nine runs of the command, less the median of nine runs of `python -c pass` with the same
interpreter, run in turn so that a loaded machine slows both. It is processor time: other tests run beside
these, and neither command waits for anything. Whatever else runs can only make the figure larger, so a failed
first attempt is measured once more.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence

import pytest

RUNS = 9
DEVICES = [sys.executable, "-m", "mix_core.cli.main", "devices"]
TRAIN_HELP = [sys.executable, "-m", "mix_core.train", "--help"]
NOTHING = [sys.executable, "-c", "pass"]


def seconds(command: Sequence[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def added_seconds(command: Sequence[str]) -> float:
    seconds(command)  # compiled byte code and the disk cache belong to no run
    pairs = [(seconds(command), seconds(NOTHING)) for _ in range(RUNS)]
    return statistics.median(whole for whole, _ in pairs) - statistics.median(bare for _, bare in pairs)


@pytest.mark.parametrize(
    ("command", "limit_s"), [(DEVICES, 0.4), (TRAIN_HELP, 0.5)], ids=["devices", "train --help"]
)
def test_commands_answer_fast(command, limit_s, record_property):
    took = added_seconds(command)
    if took >= limit_s:
        took = min(took, added_seconds(command))
    record_property("seconds", round(took, 3))
    assert took < limit_s


def test_method_sees_a_slow_command():
    busy = "import time\nwhile time.process_time() < 0.2: pass"
    assert added_seconds([sys.executable, "-c", busy]) > 0.15


def test_devices_imports_no_paddle():
    program = (
        "import sys; from mix_core.cli.main import build_app\n"
        "build_app()(args=['devices'], standalone_mode=False)\n"
        "print(sorted({'paddle', 'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "[]"
