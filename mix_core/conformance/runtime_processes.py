"""L1: the device in other processes: forked children are refused, spawned ones work."""

from __future__ import annotations

import os
import subprocess
import sys

from mix_core.conformance.case import RUNTIME, Case, Context, Mismatch, expect
from mix_core.conformance.target import Target, host_environment

SPAWNED = """
import sys
import mix_core.device as device
from mix_core.device import Workload
device.activate(sys.argv[1], workload=Workload(simulate=sys.argv[2] == "1"), allow_reexec=False)
import paddle
print("sum", float((paddle.arange(10, dtype="float32") * 2.0).sum()))
"""


def conformance_cases(target: Target) -> list[Case]:
    return [
        Case("L1/processes/fork", "the device is refused in a forked child, with a sentence", RUNTIME, _fork),
        Case("L1/processes/fork_parent", "after a fork the parent goes on", RUNTIME, _fork_parent),
        Case(
            "L1/processes/spawn",
            "a started child has the device, while the parent has it too",
            RUNTIME,
            _spawn,
        ),
    ]


def _in_fork(context: Context) -> str:
    """What a forked child says when it asks for the runtime."""
    from mix_core.errors import DeviceError

    assert context.active is not None
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            context.active.runtime.synchronize()
            said = "nothing"
        except DeviceError as error:
            said = f"refused: {error}"
        except BaseException as error:  # noqa: BLE001 (the child only tells)
            said = f"{type(error).__name__}: {error}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as stream:
        said = stream.read()
    os.waitpid(child, 0)
    return said


def _fork(context: Context) -> None:
    said = _in_fork(context)
    expect(
        said.startswith("refused"), f"a forked child that uses the device got: {said}; expected a DeviceError"
    )


def _fork_parent(context: Context) -> None:
    import paddle

    x = paddle.arange(10, dtype="float32")
    _in_fork(context)
    total = float((x * 2.0).sum())
    expect(total == 90.0, f"the sum of 0 to 9 times 2 is {total} after a fork, expected 90")


def _spawn(context: Context) -> None:
    words = [context.target.name, str(int(context.target.simulated))]
    kept = {name: value for name, value in os.environ.items() if name.startswith("MIX_SIM_")}
    python = [sys.executable, "-W", "ignore"]
    run = [*python, "-m", "mix_core.cli.main", "run", *_options(context.target), "--"]
    done = subprocess.run(
        [*run, *python, "-c", SPAWNED, *words],
        env=host_environment() | {k: v for k, v in kept.items() if k not in _DERIVED},
        capture_output=True,
        text=True,
        timeout=200,
    )
    if done.returncode != 0 or "sum 90.0" not in done.stdout:
        last = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise Mismatch(f"a started child ended with {done.returncode} and printed {done.stdout!r}; {last}")


def _options(target: Target) -> list[str]:
    return ["--device", target.name] + (["--simulate"] if target.simulated else [])


_DERIVED = ("MIX_SIM_TYPE", "MIX_SIM_OPERATORS", "MIX_SIM_BYTES", "MIX_SIM_REFUSED")
