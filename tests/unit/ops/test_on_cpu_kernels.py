"""The operators' tests again, with the CPU's kernels: a process for each instruction set."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mix_core.device import cpu_kernels, native
from mix_core.device.cpu_topology import read_processor
from mix_core.device.native_build import INSTRUCTION_SETS, SET_VARIABLE

HERE = Path(__file__).parent
FILES = sorted(
    str(path) for path in HERE.glob("test_*.py") if path.stem not in ("test_on_cpu_kernels", "test_dispatch")
)


@pytest.mark.skipif(native.find_compiler()[0] is None, reason=native.find_compiler()[1])
@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_every_kernel_in_this_instruction_set(instruction_set: str) -> None:
    """A set that the processor has not runs as the best that it has."""
    wanted = set(cpu_kernels._KERNELS)
    if instruction_set != "amx" or not read_processor().flags >= {"amx_tile", "amx_bf16"}:
        wanted.remove("conv2d")  # without tiles Paddle's serves
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.unit.ops.on_cpu_kernels"]
    command += ["-p", "no:cacheprovider", f"--kernels-served={','.join(sorted(wanted))}", *FILES]
    environ = {**os.environ, SET_VARIABLE: instruction_set}
    done = subprocess.run(
        command, env=environ, cwd=HERE.parents[2], capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
