"""The C++ kernels of the CPU against float64, on every instruction set.

Shapes: T packed tokens, N query heads, K key/value heads, H head dim, R rows, D model dim.
"""

from __future__ import annotations

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
RTOL = 2e-5
ISA = os.environ.get("MIX_CPU_ISA")


@pytest.fixture(autouse=True, scope="module")
def built_operators() -> None:
    state = native_build.load()
    assert state.library is not None, state.reason


def tensors(rng: np.random.Generator, *shapes: tuple[int, ...]) -> list[paddle.Tensor]:
    values = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    return [paddle.to_tensor(value, stop_gradient=False) for value in values]


def assert_close(got: np.ndarray, exact: np.ndarray, what: str) -> None:
    scale = max(float(np.linalg.norm(exact)), 0.1 * exact.size**0.5)  # some gradients are exactly 0
    error = float(np.linalg.norm(got - exact)) / scale
    assert error < RTOL, f"{what}: relative error {error:.1e}"


def attend_f64(q, k, v, ends_q, ends_k, causal, window, scale, mask=None):
    """Scaled dot-product attention a segment at a time, and the probabilities for the gradient."""
    out, saved = np.zeros_like(q), []
    group = q.shape[1] // k.shape[1]
    for s, (a, b, c, d) in enumerate(zip(ends_q[:-1], ends_q[1:], ends_k[:-1], ends_k[1:])):
        ahead = np.arange(d - c)[None] - (np.arange(b - a)[:, None] + (d - c) - (b - a))
        keep = np.ones(ahead.shape, bool)
        if causal:
            keep &= ahead <= 0
        if window:
            keep &= (ahead > -window) & (ahead < window)
        for n in range(q.shape[1]):
            seen = keep if mask is None else keep & mask[s, n if mask.shape[1] > 1 else 0]
            scores = np.where(seen, q[a:b, n] @ k[c:d, n // group].T * scale, -np.inf)
            top = scores.max(-1, keepdims=True, initial=-1e30)
            weights = np.exp(scores - top) * seen
            weights /= np.maximum(weights.sum(-1, keepdims=True), 1e-300)
            out[a:b, n] = weights @ v[c:d, n // group]
            saved.append((a, b, c, d, n, weights))
    return out, saved


def attend_gradients_f64(q, k, v, saved, d_out, scale):
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    group = q.shape[1] // k.shape[1]
    for a, b, c, d, n, weights in saved:
        g = d_out[a:b, n]
        dv[c:d, n // group] += weights.T @ g
        d_weights = g @ v[c:d, n // group].T
        d_scores = weights * (d_weights - (d_weights * weights).sum(-1, keepdims=True)) * scale
        dq[a:b, n] += d_scores @ k[c:d, n // group]
        dk[c:d, n // group] += d_scores.T @ q[a:b, n]
    return dq, dk, dv


CASES = {
    "ragged causal": ([5, 1, 130], 4, 2, 24, True, None),
    "full, head 80": ([70, 64, 3], 6, 3, 80, False, None),
    "causal window": ([100, 200], 2, 1, 32, True, 17),
    "two-sided window": ([90], 2, 2, 64, False, 9),
    "empty segment": ([4, 0, 9], 2, 2, 16, True, None),
    "one token": ([1], 7, 1, 104, True, None),
    "many heads a group": ([33, 65], 14, 2, 128, True, None),
}


@pytest.mark.parametrize("case", CASES)
def test_packed_attention_and_its_gradients(case: str) -> None:
    lengths, N, K, H, causal, window = CASES[case]
    rng = np.random.default_rng(0)
    ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    T = int(ends[-1])
    q, k, v = tensors(rng, (T, N, H), (T, K, H), (T, K, H))
    d_out = rng.standard_normal((T, N, H)).astype(np.float32)
    out = cpu_kernels.attention_packed(q, k, v, ends, causal=causal, window=window, scale=None)
    out.backward(paddle.to_tensor(d_out))
    wide = [x.numpy().astype(np.float64) for x in (q, k, v)]
    exact, saved = attend_f64(*wide, ends, ends, causal, window, H**-0.5)
    assert_close(out.numpy(), exact, "out")
    gradients = attend_gradients_f64(*wide, saved, d_out.astype(np.float64), H**-0.5)
    for name, tensor, want in zip("qkv", (q, k, v), gradients):
        assert_close(tensor.grad.numpy(), want, f"d{name}")


@pytest.mark.parametrize("heads_in_mask", [1, 4])
def test_dense_attention_with_a_mask_and_a_row_that_sees_nothing(heads_in_mask: int) -> None:
    rng = np.random.default_rng(1)
    B, Sq, Sk, N, K, H = 2, 5, 11, 4, 2, 20
    q, k, v = tensors(rng, (B, Sq, N, H), (B, Sk, K, H), (B, Sk, K, H))
    mask = rng.random((B, heads_in_mask, Sq, Sk)) > 0.4
    mask[1, :, 2] = False
    d_out = rng.standard_normal((B, Sq, N, H)).astype(np.float32)
    out = cpu_kernels.attention(
        q, k, v, causal=False, window=None, scale=0.3, mask_BNSS=paddle.to_tensor(mask)
    )
    out.backward(paddle.to_tensor(d_out))
    flat = [x.numpy().astype(np.float64).reshape(-1, *x.shape[2:]) for x in (q, k, v)]
    ends_q, ends_k = np.arange(B + 1) * Sq, np.arange(B + 1) * Sk
    exact, saved = attend_f64(*flat, ends_q, ends_k, False, None, 0.3, mask)
    assert_close(out.numpy().reshape(exact.shape), exact, "out")
    assert not out.numpy()[1, 2].any()
    gradients = attend_gradients_f64(*flat, saved, d_out.reshape(-1, N, H).astype(np.float64), 0.3)
    for name, tensor, want in zip("qkv", (q, k, v), gradients):
        assert_close(tensor.grad.numpy().reshape(want.shape), want, f"d{name}")


def test_causal_queries_stand_at_the_end_of_longer_keys() -> None:
    rng = np.random.default_rng(2)
    q, k, v = tensors(rng, (1, 3, 2, 8), (1, 10, 2, 8), (1, 10, 2, 8))
    out = cpu_kernels.attention(q, k, v, causal=True, window=None, scale=None)
    flat = [x.numpy().astype(np.float64)[0] for x in (q, k, v)]
    exact, _ = attend_f64(*flat, [0, 3], [0, 10], True, None, 8**-0.5)
    assert_close(out.numpy()[0], exact, "out")


@pytest.mark.parametrize(
    "N, K, C, H, lengths", [(8, 2, 40, 64, [33]), (6, 3, 9, 20, [9, 5, 1]), (2, 2, 4, 8, [0, 4])]
)
def test_decoding_over_the_cache(N: int, K: int, C: int, H: int, lengths: list[int]) -> None:
    rng = np.random.default_rng(9)
    B = len(lengths)
    q, k, v = tensors(rng, (B, N, H), (B, K, C, H), (B, K, C, H))
    with paddle.no_grad():
        got = cpu_kernels.attention_decode(q, k, v, lengths_B=np.array(lengths), scale=None).numpy()
    wide = [x.numpy().astype(np.float64) for x in (q, k, v)]
    for b, length in enumerate(lengths):
        keys, values = (x[b, :, :length].swapaxes(0, 1) for x in wide[1:])
        exact, _ = attend_f64(wide[0][b][None], keys, values, [0, 1], [0, length], False, None, H**-0.5)
        assert_close(got[b], exact[0], f"row {b}")


def against_autograd(kernel, plain, inputs: list[paddle.Tensor], rng: np.random.Generator) -> None:
    """The kernel and the composition of Paddle's operators in float64: outputs and all gradients."""
    out = kernel(*inputs)
    d_out = rng.standard_normal(out.shape).astype(np.float32)
    out.backward(paddle.to_tensor(d_out))
    wide = [paddle.to_tensor(x.numpy().astype(np.float64), stop_gradient=x.stop_gradient) for x in inputs]
    exact = plain(*wide)
    exact.backward(paddle.to_tensor(d_out.astype(np.float64)))
    assert_close(out.numpy(), exact.numpy(), "out")
    for i, (got, want) in enumerate(zip(inputs, wide)):
        if not got.stop_gradient:
            assert_close(got.grad.numpy(), want.grad.numpy(), f"gradient of input {i}")


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (130, 33), (2, 5, 96), (64, 256)])
def test_rms_norm(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    inputs = tensors(rng, shape, shape[-1:])

    def plain(x, weight):
        return x * paddle.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6) * weight

    against_autograd(lambda x, weight: cpu_kernels.rms_norm(x, weight, 1e-6), plain, inputs, rng)


@pytest.mark.parametrize("shape", [(1,), (3, 7), (130, 352), (9000,)])
def test_swiglu(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(4)
    inputs = tensors(rng, shape, shape)
    against_autograd(cpu_kernels.swiglu, lambda g, u: paddle.nn.functional.silu(g) * u, inputs, rng)


def test_swiglu_far_from_zero_stays_finite() -> None:
    gate = paddle.to_tensor(np.float32([-1e4, -100.0, -87.5, 0.0, 87.5, 100.0, 1e4]))
    out = cpu_kernels.swiglu(gate, paddle.ones_like(gate)).numpy()
    assert np.allclose(out, [0, 0, 0, 0, 87.5, 100, 1e4], rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("H", [4, 24, 80, 128])
def test_rotary_and_its_gradient(H: int) -> None:
    rng = np.random.default_rng(5)
    x, cos, sin = tensors(rng, (2, 5, 3, H), (2, 5, 1, H), (2, 5, 1, H))
    cos.stop_gradient = sin.stop_gradient = True

    def plain(x, cos, sin):
        low, high = x[..., : H // 2], x[..., H // 2 :]
        return x * cos + paddle.concat([-high, low], axis=-1) * sin

    against_autograd(lambda x, cos, sin: cpu_kernels.rotary(x, x, cos, sin)[0], plain, [x, cos, sin], rng)


@pytest.mark.parametrize("rows, inputs, outputs", [(1, 1, 1), (7, 33, 5), (2050, 96, 288)])
def test_linear_with_bias(rows: int, inputs: int, outputs: int) -> None:
    rng = np.random.default_rng(6)
    values = tensors(rng, (rows, inputs), (inputs, outputs), (outputs,))
    against_autograd(cpu_kernels.linear, lambda x, weight, bias: x @ weight + bias, values, rng)


def test_a_view_that_is_not_contiguous_is_read_right() -> None:
    rng = np.random.default_rng(7)
    gate, up = tensors(rng, (6, 10), (6, 10))
    got = cpu_kernels.swiglu(gate.t(), up.t()).numpy()
    assert_close(got, cpu_kernels.swiglu(gate, up).numpy().T, "out")


def test_float64_is_refused_by_the_kernel_with_a_sentence() -> None:
    x = paddle.ones([2, 3], dtype="float64")
    with pytest.raises(Exception, match="float32"):
        cpu_kernels.swiglu(x, x)


def test_no_second_openmp_runtime_is_linked() -> None:
    library = native_build.load().library
    maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    loaded = {line.split()[-1] for line in maps.splitlines() if line.endswith((".so", ".so.1"))}
    ours = [path for path in loaded if Path(path).name in ("libmix_ops.so", "libmix_kernels.so")]
    assert str(library) in ours and len(ours) == 2
    for path in ours:
        shown = subprocess.run(["readelf", "-d", path], capture_output=True, text=True, check=True).stdout
        assert "libgomp" not in shown, path


@pytest.mark.skipif(ISA is not None, reason="this is the run on one instruction set")
@pytest.mark.parametrize("isa", ["portable", "avx2"])
def test_every_instruction_set_passes_the_same_tests(isa: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(Path(__file__))]
    environment = {**os.environ, "MIX_CPU_ISA": isa}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:]


def test_adamw_over_many_tensors_in_place() -> None:
    rng = np.random.default_rng(8)
    shapes = [(3,), (1,), (40_000,), (17, 33)]
    parameters, gradients, means, squares = (tensors(rng, *shapes) for _ in range(4))
    squares = [paddle.to_tensor(np.abs(x.numpy())) for x in squares]
    before = [
        [x.numpy().astype(np.float64) for x in group] for group in (parameters, gradients, means, squares)
    ]
    rate, beta1, beta2, epsilon, decay, scale, step = 0.01, 0.9, 0.95, 1e-8, 0.1, 0.25, 3
    cpu_kernels.adamw(
        *(parameters, gradients, means, squares),
        step=step,
        learning_rate=rate,
        beta1=beta1,
        beta2=beta2,
        epsilon=epsilon,
        weight_decay=decay,
        grad_scale=scale,
    )
    for i, (p, g, m, v) in enumerate(zip(*before)):
        g = g * scale
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        change = m / (1 - beta1**step) / (np.sqrt(v / (1 - beta2**step)) + epsilon)
        assert_close(parameters[i].numpy(), p * (1 - rate * decay) - rate * change, f"parameter {i}")
        assert_close(means[i].numpy(), m, f"mean {i}")
        assert_close(squares[i].numpy(), v, f"square {i}")


BAD_BINDINGS = {
    "falling ends": ((6, 2, 8), (6, 2, 8), (0, 5, 3, 6), "cu_q falls from 5 to 3 at 2"),
    "a late start": ((6, 2, 8), (6, 2, 8), (1, 6), "cu_q has 2 numbers"),
    "an early end": ((6, 2, 8), (6, 2, 8), (0, 4), "cu_q ends at 4, expected 6"),
    "heads": ((6, 4, 8), (6, 3, 8), (0, 6), "q has 4 heads and k 3"),
    "head dims": ((6, 2, 8), (6, 2, 16), (0, 6), "q has the head dim 8 and k 16"),
}


@pytest.mark.parametrize("case", BAD_BINDINGS)
def test_the_binding_of_attention_refuses_what_would_read_elsewhere(case: str) -> None:
    """Python refuses it first; this is what holds for callers of the operator itself."""
    q, k, ends, words = BAD_BINDINGS[case]
    arguments = (paddle.ones(q), paddle.ones(k), paddle.ones(k), np.array(ends, np.int32))
    with pytest.raises((RuntimeError, OSError, ValueError), match=words):
        cpu_kernels.attention_packed(*arguments, causal=True, window=None, scale=None)


@pytest.mark.parametrize("segments", [1, 32])
def test_attention_over_8192_tokens_holds_no_square_of_them(segments: int) -> None:
    """Scores of all pairs would be 256 MiB a head; a thread holds those of 64 queries."""
    T, N, H = 8192, 2, 64
    rng = np.random.default_rng(9)
    q, k, v = tensors(rng, (T, N, H), (T, N, H), (T, N, H))
    cu_seqlens = np.linspace(0, T, segments + 1).astype(np.int32)
    runtime = cpu.CpuRuntime()
    runtime.empty_cache()
    runtime.reset_peak_memory()
    before = runtime.memory_stats()["allocated"]
    out = cpu_kernels.attention_packed(q, k, v, cu_seqlens, causal=True, window=None, scale=None)
    out.backward(paddle.ones_like(out))
    grown = runtime.memory_stats()["peak"] - before
    assert grown < T * T * 4 / 4, f"{grown >> 20} MiB, results and a gradient of ones among them: 20"
