"""The CPU's products in three bfloat16 parts and in one, against float64, on every unit that has them.

Shapes: R rows, I inputs, O outputs.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

from mix_core.device import cpu, cpu_kernels, native, native_build

pytestmark = pytest.mark.skipif(
    native.find_compiler()[0] is None, reason="no C++ compiler on this machine: the references run"
)
EXACT, GRADIENT, ROUNDED = 1e-6, 1e-5, 5e-3
"""Relative errors in norm: of products in float32 going forward and back, and in bfloat16, where two rounded
factors give 2.4e-3."""
SHAPES = [(1024, 512, 1408), (128, 256, 256), (300, 257, 515), (1600, 1537, 290), (129, 700, 33), (17, 5, 3)]
"""Blocks are of 32, panels of 1,536 rows and 512 depths: sizes at, below and beyond their edges."""


@pytest.fixture(autouse=True, scope="module")
def built_operators() -> None:
    state = native_build.load()
    assert state.library is not None, state.reason


def drawn(*shape: int, seed: int = 0) -> paddle.Tensor:
    values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return paddle.to_tensor(values, stop_gradient=False)


def distance(found: paddle.Tensor, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found.numpy() - expected) / np.linalg.norm(expected))


def check(shape: tuple[int, int, int], biased: bool, narrow: bool, limit: float) -> None:
    R, inputs, outputs = shape
    x, weight, bias = drawn(R, inputs), drawn(inputs, outputs, seed=1), drawn(outputs, seed=2)
    out = cpu_kernels.linear(x, weight, bias if biased else None, narrow=narrow)
    d_out = drawn(R, outputs, seed=3)
    out.backward(d_out)
    x64, weight64, bias64, d64 = (t.numpy().astype(np.float64) for t in (x, weight, bias, d_out))
    assert distance(out, x64 @ weight64 + biased * bias64) < limit
    assert distance(x.grad, d64 @ weight64.T) < max(limit, GRADIENT)
    assert distance(weight.grad, x64.T @ d64) < max(limit, GRADIENT)
    if biased:
        assert distance(bias.grad, d64.sum(0)) < EXACT


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_float32_products_are_as_exact_as_float32(shape: tuple[int, int, int], biased: bool) -> None:
    check(shape, biased, narrow=False, limit=EXACT)


needs_bfloat16 = pytest.mark.skipif(
    not cpu.narrow_products(), reason="this processor has no bfloat16 products (AVX512_BF16, AMX)"
)


@needs_bfloat16
@pytest.mark.parametrize("shape", SHAPES)
def test_products_in_bfloat16(shape: tuple[int, int, int]) -> None:
    check(shape, True, narrow=True, limit=ROUNDED)


@needs_bfloat16
def test_the_head_in_bfloat16() -> None:
    hidden, weight = drawn(70, 96), drawn(500, 96, seed=1)
    labels = np.random.default_rng(2).integers(0, 500, 70)
    loss, count = cpu_kernels.linear_cross_entropy(hidden, weight, labels, ignore_index=-100, narrow=True)
    (loss / count).backward()
    h, w = hidden.numpy().astype(np.float64), weight.numpy().astype(np.float64)
    z = h @ w.T
    odds = np.exp(z - z.max(1, keepdims=True))
    dz = odds / odds.sum(1, keepdims=True)
    losses = -np.log(dz[np.arange(70), labels])
    dz[np.arange(70), labels] -= 1
    assert abs(float(loss) / losses.sum() - 1) < ROUNDED
    assert distance(hidden.grad, dz @ w / 70) < ROUNDED
    assert distance(weight.grad, dz.T @ h / 70) < ROUNDED


@needs_bfloat16
def test_bfloat16_rounds_the_factors_and_not_the_sums() -> None:
    """Numbers that bfloat16 holds are multiplied exactly; float32 sums of 2,048 of them are, too."""
    rng = np.random.default_rng(0)
    x, weight = (rng.integers(-8, 9, shape).astype(np.float32) for shape in ((64, 2048), (2048, 96)))
    out = cpu_kernels.linear(paddle.to_tensor(x), paddle.to_tensor(weight), None, narrow=True)
    np.testing.assert_array_equal(out.numpy(), x @ weight)


def test_large_and_small_numbers_keep_their_digits() -> None:
    scale = np.float32(2.0) ** np.linspace(-40, 40, 256, dtype=np.float32).round()
    x, weight = drawn(200, 256).numpy() * scale, drawn(256, 300, seed=1).numpy() / scale[:, None]
    out = cpu_kernels.linear(paddle.to_tensor(x), paddle.to_tensor(weight), None)
    assert distance(out, x.astype(np.float64) @ weight.astype(np.float64)) < EXACT


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_stays_so(bad: float) -> None:
    x = drawn(256, 256).numpy()
    x[3, 5] = bad
    out = cpu_kernels.linear(paddle.to_tensor(x), drawn(256, 256, seed=1), None).numpy()
    assert not np.isfinite(out[3]).any() and np.isfinite(np.delete(out, 3, axis=0)).all()


PROGRAM = """
import hashlib
import tests.unit.device.test_cpu_products as t
from mix_core.device import native_build
native_build.load()
def bits(narrow):
    x, weight = t.drawn(700, 530), t.drawn(530, 410, seed=1)
    out = t.cpu_kernels.linear(x, weight, None, narrow=narrow)
    out.backward(t.drawn(700, 410, seed=2))
    return b"".join(part.numpy().tobytes() for part in (out, x.grad, weight.grad))
assert bits(False) == bits(False)
print(hashlib.sha256(bits(False) + bits(True)).hexdigest())
"""


def run(program: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *program],
        env=os.environ | variables,
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.skipif(
    not {"amx_tile", "amx_bf16"} <= cpu.read_processor().flags,
    reason="the BLAS below divides its work by threads",
)
def test_the_bits_do_not_depend_on_the_number_of_threads() -> None:
    seen = {run(["-c", PROGRAM], OMP_NUM_THREADS=threads).stdout for threads in ("1", "2", "3")}
    assert len(seen) == 1 and len(seen.pop().strip()) == hashlib.sha256().digest_size * 2


@pytest.mark.parametrize("isa", ["portable", "avx512"])
@pytest.mark.skipif("MIX_CPU_ISA" in os.environ, reason="this is such a run")
def test_other_units_pass_the_same_tests(isa: str) -> None:
    done = run(["-m", "pytest", "-q", "-x", "-k", "not threads", __file__], MIX_CPU_ISA=isa)
    assert done.returncode == 0, done.stdout
