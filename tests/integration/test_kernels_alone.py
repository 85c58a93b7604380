"""The C++ kernels in a program of their own, without Paddle: sanitizers, instruction sets, another processor.

The program (csrc/tests/kernels_main.cc) compares every kernel with plain loops in double; a new kernel's
cases are found by the name of their file.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest

from mix_core.device import native
from mix_core.device.cpu import AVX2_FLAGS, AVX512_FLAGS, BFLOAT16_FLAGS
from mix_core.device.cpu_topology import read_processor

ROOT = Path(__file__).parents[2] / "csrc"
WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Werror", "-Wno-maybe-uninitialized")
"""GCC 12 finds its own AVX-512 intrinsics uninitialised (its bug 105593)."""
FAST = ("-O3", "-fno-math-errno", "-fno-trapping-math")
CHECKED = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
AARCH64 = "aarch64-linux-gnu-g++"
Build = Callable[[str, Sequence[str]], Path]

pytestmark = pytest.mark.skipif(native.find_compiler()[0] is None, reason="no C++ compiler on this machine")


def units() -> list[Path]:
    kernels = [path for path in (ROOT / "ops").glob("*.cc") if not path.stem.endswith("_op")]
    tests = ROOT / "tests"
    return [
        *kernels,
        *tests.glob("kernel_*.cc"),
        tests / "kernels_main.cc",
        tests / "plain_gemm.cc",
    ]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Compile the program: `build(compiler, flags)`."""

    def compiled(compiler: str, flags: Sequence[str]) -> Path:
        folder = tmp_path_factory.mktemp("kernels")
        common = [compiler, "-std=c++17", "-fopenmp", *flags]
        include = [f"-I{ROOT}", f"-I{ROOT / 'include'}"]

        def one(source: Path) -> str:
            made = str(folder / f"{source.parent.name}_{source.stem}.o")
            call([*common, *WARNINGS, *include, "-c", str(source), "-o", made])
            return made

        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            objects = list(pool.map(one, units()))
        program = folder / "kernels_main"
        call([*common, *objects, "-o", str(program)])
        return program

    return compiled


def call(command: Sequence[str], **variables: str) -> str:
    """Run a command that has to succeed; three threads, so that sums of threads are not all of one size.

    One that waits leaves its processor to the others.
    """
    environ = {**os.environ, "OMP_NUM_THREADS": "3", "OMP_WAIT_POLICY": "passive", **variables}
    done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=500)
    failed = "\n".join(line for line in done.stdout.splitlines() if not line.startswith("ok "))
    assert done.returncode == 0, f"{failed}\n{done.stderr[-3000:]}"
    return done.stdout


def compiler() -> str:
    found = native.find_compiler()[0]
    assert found is not None, "pytestmark skips without one"
    return found.path


def instruction_sets() -> list[str]:
    flags = read_processor().flags
    amx = BFLOAT16_FLAGS | {"amx_tile", "amx_bf16"}
    wider = {"avx2": AVX2_FLAGS, "avx512": AVX512_FLAGS, "amx": amx}
    return ["portable", *(name for name, needs in wider.items() if flags >= needs)]


@pytest.fixture(scope="module")
def program(build: Build) -> Path:
    return build(compiler(), FAST)


@pytest.fixture(scope="module")
def run(program: Path) -> Callable[[str], str]:
    """What the program says with an instruction set, run once."""
    return cache(lambda isa: call([str(program)], MIX_CPU_ISA=isa))


@pytest.mark.parametrize("isa", instruction_sets())
def test_every_kernel_in_every_instruction_set(run: Callable[[str], str], isa: str) -> None:
    said = run(isa)
    assert said.startswith(f"instruction set: {isa}\n")
    assert ", 0 failed" in said.splitlines()[-1]


def test_every_kernel_has_cases(run: Callable[[str], str]) -> None:
    said = run("portable")
    parts = {
        "adapters",
        "attention_rows",
        "attention_tiles",
        "binding",
        "conv_rows",
        "decode_few",
        "gelu_forms",
        "gemm_pack",
        "gemm_tiles",
        "lanes",
        "patches",
        "winograd_basis",
    }
    names = {path.stem for path in (ROOT / "ops").glob("*.h")} - parts
    assert [name for name in sorted(names) if f"\nok {name} " not in said] == []


def test_a_suite_that_does_not_exist_is_refused(program: Path) -> None:
    done = subprocess.run([str(program), "softmax"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "no cases for softmax\n")


@pytest.mark.slow
def test_no_kernel_leaves_its_arrays_or_the_language(build: Build) -> None:
    checked = build(compiler(), CHECKED)
    for isa in instruction_sets():
        call([str(checked)], MIX_CPU_ISA=isa)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(AARCH64) is None, reason=f"{AARCH64} is not installed")
@pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="qemu-aarch64 is not installed")
def test_every_kernel_on_aarch64(build: Build) -> None:
    program = build(AARCH64, (*FAST, "-static"))
    assert call(["qemu-aarch64", str(program)]).startswith("instruction set: portable\n")
