"""Places where a test can kill a run, to show that nothing is lost there.

MIX_KILL_AT=NAME or NAME:N ends the process with SIGKILL when it passes the place of that name, the N-th time
(the first without a number); NAME:N@RANK only on that rank of several. The places are in `PLACES`. Without
the variable a place costs a lookup.
"""

from __future__ import annotations

import os
import signal

from mix_core.device.ranks import job_of

VARIABLE = "MIX_KILL_AT"

PLACES = (
    "start",
    "forward",
    "step",
    "checkpoint-weights",
    "checkpoint-state",
    "checkpoint-renamed",
    "rotation",
    "end",
)
"""start: before the first step. forward: a step's gradients are there, its update is not. step: after a step.
checkpoint-weights: weights and training state written, the manifest not. checkpoint-state: all written,
nothing renamed yet. Checkpoints are written beside training, so the step at which these kill is not fixed.
checkpoint-renamed: the checkpoint is in place, old ones not yet removed. rotation: an old one has lost its
name but not its files. end: trained, results not written."""

_passed: dict[str, int] = {}


def place(name: str) -> None:
    """Die here if the environment says so."""
    where, _, rank = os.environ.get(VARIABLE, "").partition("@")
    wanted, _, count = where.partition(":")
    if wanted != name or (rank and int(rank) != job_of(os.environ).rank):
        return
    _passed[name] = _passed.get(name, 0) + 1
    if _passed[name] == int(count or 1):
        os.kill(os.getpid(), signal.SIGKILL)
