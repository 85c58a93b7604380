"""Progress: a bar on a real (pseudo) terminal, plain lines in a pipe."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import threading

from mix_core.training.progress import Progress, clock

PROGRAM = """
import sys
from mix_core.training.progress import Progress
with Progress(40, start_step=10, logging_steps=10) as progress:
    for step in range(11, 41):
        progress.update(step, loss=40 / step, tokens_per_s=12345.6, learning_rate=1e-3)
        if step == 20:
            progress.note("checkpoint-20 [saved]")
"""


def run_on_terminal(program: str, columns: int = 100) -> str:
    """Everything a program writes to a pseudo terminal of its own."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": str(columns)}
    process = subprocess.Popen([sys.executable, "-c", program], stderr=theirs, stdout=theirs, env=environment)
    os.close(theirs)
    seen = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # Linux reports the closed other end as an error
            break
        if not piece:
            break
        seen += piece
    assert process.wait() == 0
    os.close(ours)
    return seen.decode()


def test_bar_on_a_terminal():
    seen = run_on_terminal(PROGRAM)
    assert "\x1b[" in seen
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen)
    assert "step 40/40" in plain
    assert "loss 1.0000" in plain
    assert "12,346 tokens/s" in plain
    assert "left" in plain
    assert "checkpoint-20 [saved]" in plain


def test_lines_in_a_pipe_even_when_colour_is_forced():
    environment = os.environ | {"FORCE_COLOR": "1", "TERM": "xterm-256color"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and done.stdout == ""
    assert "\x1b" not in done.stderr and "\r" not in done.stderr
    lines = done.stderr.splitlines()
    starts = [line.split("  ")[0] for line in lines]
    assert starts == ["step 20/40", "checkpoint-20 [saved]", "step 30/40", "step 40/40"]
    assert "loss 2.0000  lr 1.00e-03  12,346 tokens/s" in lines[0]


def test_time_left_ignores_one_slow_step(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("mix_core.training.progress.time.monotonic", lambda: now[0])
    progress = Progress(100, stream=io.StringIO())
    for step in range(1, 21):
        now[0] += 30.0 if step == 10 else 0.5
        progress.update(step)
    assert progress.seconds_left == 40.0
    now[0] += 1000
    progress.pause()
    now[0] += 0.5
    progress.update(21)
    assert progress.seconds_left == 39.5


def test_clock():
    assert [clock(s) for s in (0, 59.6, 75, 3675)] == ["0:00", "1:00", "1:15", "1:01:15"]


def test_no_thread_is_left_running():
    before = threading.active_count()
    with Progress(3, stream=io.StringIO()) as progress:
        progress.update(3, loss=1.0)
    assert threading.active_count() == before


def test_use_of_the_device_stands_beside_the_speed():
    stream = io.StringIO()
    progress = Progress(2, logging_steps=1, stream=stream)
    spent = {"compute": 600.0, "communication": 100.0, "data": 300.0, "checkpoint": 0.0}
    progress.update(
        1, loss=1.0, tokens_per_s=2000.0, samples_per_s=12.34, mfu=0.412, padding=0.031, spent=spent
    )
    spent = {"compute": 900.0, "communication": 0.0, "data": 0.0, "checkpoint": 100.0}
    progress.update(2, loss=1.0, tokens_per_s=2000.0, padding=0.001, spent=spent)
    first, second = stream.getvalue().splitlines()
    assert "2,000 tokens/s  12.3 samples/s  mfu 41.2 %  padding 3 %  compute 60 %" in first
    assert "compute 60 %  communication 10 %  data wait 30 %  0:0" in first, "no checkpoint, so no word of it"
    assert "compute 75 %  communication 5 %  data wait 15 %  checkpoint 5 %" in second, "of the recent steps"
    assert "padding" not in second and "mfu" not in second
