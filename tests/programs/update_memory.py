"""The most memory of a process that trains layers of 4 MiB each, and what it had before, in MiB.

Arguments: layers; numbers of gradients that are enough for an update going back, 0 for updates behind it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import mix_core.device as device

device.activate("cpu", allow_reexec=True)

import paddle  # noqa: E402 (after the settings)

from mix_core import ops  # noqa: E402
from mix_core.training.optimizer import AdamW  # noqa: E402


def peak_mib() -> float:
    """Of this program; ru_maxrss would count what started it too."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    return int(line.split()[1]) / 1024


layers, in_backward = map(int, sys.argv[1:])
model = paddle.nn.Sequential(*(paddle.nn.Linear(1024, 1024, bias_attr=False) for _ in range(layers)))
optimizer = AdamW(model, in_backward=in_backward)
x = paddle.ones([4, 1024])
before = peak_mib()
for _ in range(3):
    out = x
    for layer in model:
        out = ops.linear(out, layer.weight)
    loss = paddle.mean(paddle.square(out))
    optimizer.before_backward(loss, 1e-3, 1.0)
    loss.backward()
    optimizer.after_pass()
    optimizer.step(1e-3)
    optimizer.clear_grad()
print(json.dumps({"before": before, "peak": peak_mib()}))
