"""The CPU's kernels of norms and gelu against float64, on every instruction set.

Shapes: R rows, D model dim (no vector width divides 7, 17 or 1025), C channels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import Tensor

from mix_core.device import Kernel, KernelRequest, cpu_kernels, native, native_build
from tests.unit.ops import oracle

pytestmark = pytest.mark.skipif(
    native.find_compiler()[0] is None, reason="no C++ compiler on this machine: the references run"
)
FORWARD, GRADIENT = 1e-6, 1e-5
EPS = 1e-6
SIZES = [1, 7, 17, 64, 1025]


@pytest.fixture(autouse=True)
def kernels_at_every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    assert native_build.load().library is not None, native_build.load().reason
    monkeypatch.setattr(cpu_kernels, "FEW", 0)


def check(kernel: Callable[..., Tensor], formula: Callable[..., Tensor], *inputs: np.ndarray | None) -> None:
    """Outputs and gradients of a kernel against Paddle's operators in float64; inputs may be None."""
    seen = []
    for function, dtype in ((kernel, "float32"), (formula, "float64")):
        tensors = [
            None if array is None else paddle.to_tensor(array.astype(dtype), stop_gradient=False)
            for array in inputs
        ]
        out = function(*tensors)
        out.backward(paddle.to_tensor(oracle.draw(99, *out.shape).astype(dtype)))
        seen.append([out.numpy(), *(tensor.grad.numpy() for tensor in tensors if tensor is not None)])
    for i, (found, exact) in enumerate(zip(*seen, strict=True)):
        # rows of one or two numbers have gradients that are 0 but for cancellation: of order 0.1 is the least
        scale = max(np.linalg.norm(exact), 0.1 * exact.size**0.5)
        error = np.linalg.norm(found - exact) / scale
        assert error < (GRADIENT if i else FORWARD), f"gradient {i}" if i else "out"


def rms(x: Tensor, weight_D: Tensor) -> Tensor:
    return x * paddle.rsqrt((x * x).mean(-1, keepdim=True) + EPS) * weight_D


def both(x: Tensor, branch: Tensor, weight_D: Tensor) -> Tensor:
    return paddle.stack([x + branch, rms(x + branch, weight_D)])


def add_rms_norm(x: Tensor, branch: Tensor, weight_D: Tensor) -> Tensor:
    return paddle.stack(cpu_kernels.add_rms_norm(x, branch, weight_D, EPS))


@pytest.mark.parametrize("D", SIZES)
@pytest.mark.parametrize("R", [1, 37])
def test_add_rms_norm(R: int, D: int) -> None:
    check(add_rms_norm, both, oracle.draw(0, R, D), oracle.draw(1, R, D), oracle.draw(2, D))


def test_add_rms_norm_by_finite_differences() -> None:
    def formula(x: np.ndarray, branch: np.ndarray, weight: np.ndarray) -> np.ndarray:
        total = x + branch
        return np.stack([total, total / np.sqrt((total**2).mean(-1, keepdims=True) + EPS) * weight])

    oracle.check(add_rms_norm, formula, [oracle.draw(0, 2, 7), oracle.draw(1, 2, 7), oracle.draw(2, 7)])


@pytest.mark.parametrize("used", [0, 1], ids=["sum", "normed"])
def test_add_rms_norm_of_which_one_result_is_used(used: int) -> None:
    def chosen(x: Tensor, branch: Tensor, weight_D: Tensor) -> Tensor:
        return cpu_kernels.add_rms_norm(x, branch, weight_D, EPS)[used]

    def formula(x: Tensor, branch: Tensor, weight_D: Tensor) -> Tensor:
        # an unused weight still gets a gradient, of zeros
        return rms(x + branch, weight_D) if used else x + branch + 0.0 * weight_D

    check(chosen, formula, *(oracle.draw(i, 3, 17) for i in range(2)), oracle.draw(2, 17))


def test_gradients_of_x_and_branch_do_not_share_memory() -> None:
    x, branch, weight = (paddle.to_tensor(oracle.draw(i, 4, 8).astype("float32")) for i in range(3))
    x.stop_gradient = branch.stop_gradient = False
    for times in (1, 2):
        total, _ = cpu_kernels.add_rms_norm(x, branch, weight[0], EPS)
        (total + 3.0 * x).sum().backward()
        np.testing.assert_array_equal(x.grad.numpy(), np.full((4, 8), 4.0 * times))
        np.testing.assert_array_equal(branch.grad.numpy(), np.full((4, 8), 1.0 * times))


def test_rows_enough_for_threads_give_the_same_bits_each_time() -> None:
    arrays = [oracle.draw(0, 700, 64), oracle.draw(1, 700, 64), oracle.draw(2, 64)]

    def bits() -> list[bytes]:
        tensors = [paddle.to_tensor(array.astype("float32"), stop_gradient=False) for array in arrays]
        out = add_rms_norm(*tensors)
        (out * out).sum().backward()
        return [out.numpy().tobytes(), *(tensor.grad.numpy().tobytes() for tensor in tensors)]

    first = bits()
    assert all(bits() == first for _ in range(3))


def layer_norm(x: Tensor, weight_D: Tensor | None, bias_D: Tensor | None) -> Tensor:
    return cpu_kernels.layer_norm(x, weight_D, bias_D, EPS)


def plain_layer_norm(x: Tensor, weight_D: Tensor | None, bias_D: Tensor | None) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    out = centred * paddle.rsqrt((centred * centred).mean(-1, keepdim=True) + EPS)
    out = out if weight_D is None else out * weight_D
    return out if bias_D is None else out + bias_D


@pytest.mark.parametrize("D", SIZES[1:])
@pytest.mark.parametrize("R", [1, 37])
def test_layer_norm(R: int, D: int) -> None:
    check(layer_norm, plain_layer_norm, oracle.draw(0, R, D), oracle.draw(1, D), oracle.draw(2, D))


def test_layer_norm_of_rows_of_one_number_is_the_bias() -> None:
    x, weight, bias = (
        paddle.to_tensor(oracle.draw(i, *shape).astype("float32"), stop_gradient=False)
        for i, shape in enumerate([(37, 1), (1,), (1,)])
    )
    out = layer_norm(x, weight, bias)
    out.backward(paddle.ones_like(out))
    np.testing.assert_array_equal(out.numpy(), np.full((37, 1), bias.item(), np.float32))
    # nothing but rounding, which 1 / sqrt(eps) enlarges
    assert np.abs(x.grad.numpy()).max() < 2.0**-23 / EPS**0.5 * abs(weight.item())
    assert (weight.grad.item(), bias.grad.item()) == (0.0, 37.0)


@pytest.mark.parametrize("weight", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_layer_norm_with_and_without_weight_and_bias(weight: bool, bias: bool) -> None:
    vectors = [oracle.draw(i, 17) if given else None for i, given in enumerate((weight, bias), 1)]
    check(layer_norm, plain_layer_norm, oracle.draw(0, 2, 5, 17), *vectors)


def test_layer_norm_by_finite_differences() -> None:
    def formula(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + EPS) * weight + bias

    oracle.check(layer_norm, formula, [oracle.draw(0, 3, 7), oracle.draw(1, 7), oracle.draw(2, 7)])


def test_a_mean_far_from_zero_costs_no_more_than_its_own_rounding() -> None:
    # 9000 numbers: two chunks of the sums and a rest
    x = (oracle.draw(0, 3, 9000) + 1000.0).astype(np.float32)
    exact = x.astype(np.float64)
    exact = (exact - exact.mean(-1, keepdims=True)) / np.sqrt(exact.var(-1, keepdims=True) + EPS)
    found = layer_norm(paddle.to_tensor(x), None, None).numpy()
    half_a_unit = float(np.spacing(np.float32(1000.0))) / 2
    assert oracle.distance(found, exact) < half_a_unit + FORWARD


def group_norm(groups: int, silu: bool = False) -> Callable[..., Tensor]:
    return lambda x, weight_C, bias_C: cpu_kernels.group_norm(x, groups, weight_C, bias_C, EPS, silu=silu)


def plain_group_norm(groups: int, silu: bool = False) -> Callable[..., Tensor]:
    def formula(x: Tensor, weight_C: Tensor | None, bias_C: Tensor | None) -> Tensor:
        out = plain_layer_norm(x.reshape([x.shape[0], groups, -1]), None, None).reshape(x.shape)
        along_C = [1, -1] + [1] * (x.ndim - 2)
        out = out if weight_C is None else out * weight_C.reshape(along_C)
        out = out if bias_C is None else out + bias_C.reshape(along_C)
        return out / (1.0 + paddle.exp(-out)) if silu else out

    return formula


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize(
    "shape, groups",
    [((1, 1, 1), 1), ((2, 6, 7), 3), ((1, 4), 2), ((3, 4, 17), 4), ((2, 2, 8, 8), 1), ((2, 4, 5, 205), 2)],
)
def test_group_norm(shape: tuple[int, ...], groups: int, silu: bool) -> None:
    vectors = (oracle.draw(i, shape[1]) for i in (1, 2))
    check(group_norm(groups, silu), plain_group_norm(groups, silu), oracle.draw(0, *shape), *vectors)


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("weight", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_group_norm_with_and_without_weight_and_bias(weight: bool, bias: bool, silu: bool) -> None:
    vectors = [oracle.draw(i, 6) if given else None for i, given in enumerate((weight, bias), 1)]
    check(group_norm(2, silu), plain_group_norm(2, silu), oracle.draw(0, 2, 6, 5), *vectors)


def test_group_norm_of_a_picture_larger_than_one_chunk_of_the_sums() -> None:
    vectors = (oracle.draw(i, 2) for i in (1, 2))
    check(group_norm(1), plain_group_norm(1), oracle.draw(0, 1, 2, 70, 71) + 3.0, *vectors)


def plain_gelu(form: str) -> Callable[[Tensor], Tensor]:
    if form == "quick":
        return lambda x: x * F.sigmoid(1.702 * x)
    return lambda x: F.gelu(x, approximate=form == "tanh")


@pytest.mark.parametrize("form", ["erf", "tanh", "quick"])
@pytest.mark.parametrize("count", [*SIZES, 20_000])
def test_gelu(form: str, count: int) -> None:
    check(lambda x: cpu_kernels.gelu(x, form), plain_gelu(form), oracle.draw(0, count) * 2)


@pytest.mark.parametrize("form", ["erf", "tanh", "quick"])
def test_each_number_of_gelu_is_close_from_tail_to_tail(form: str) -> None:
    x = np.linspace(-12.0, 12.0, 4801).astype(np.float32)
    found = cpu_kernels.gelu(paddle.to_tensor(x), form).numpy()
    exact = plain_gelu(form)(paddle.to_tensor(x.astype(np.float64))).numpy()
    assert np.abs(found - exact).max() < 1e-6
    small = np.abs(x) < 1.0
    assert np.abs(found - exact)[small].max() < 1e-7


@pytest.mark.parametrize("form", ["erf", "tanh", "quick"])
def test_gelu_far_from_zero_stays_finite(form: str) -> None:
    x = paddle.to_tensor(np.float32([-1e30, -1e4, -50.0, 0.0, 50.0, 1e4, 1e30]), stop_gradient=False)
    out = cpu_kernels.gelu(x, form)
    out.sum().backward()
    np.testing.assert_allclose(out.numpy(), [0, 0, 0, 0, 50, 1e4, 1e30], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(x.grad.numpy(), [0, 0, 0, 0.5, 1, 1, 1], rtol=1e-6, atol=1e-7)


def plain_geglu(x: Tensor) -> Tensor:
    value, gate = x.chunk(2, axis=-1)
    return value * F.gelu(gate)


@pytest.mark.parametrize("shape", [(2,), (1, 14), (37, 34), (2, 5, 64), (9, 2050), (300, 130)])
def test_geglu(shape: tuple[int, ...]) -> None:
    check(cpu_kernels.geglu, plain_geglu, oracle.draw(0, *shape) * 2)


@pytest.mark.parametrize("shape", [(0, 8), (3, 0)])
def test_geglu_of_nothing(shape: tuple[int, ...]) -> None:
    x = paddle.zeros(shape)
    x.stop_gradient = False
    out = cpu_kernels.geglu(x)
    out.sum().backward()
    assert (out.shape, x.grad.shape) == ([shape[0], shape[1] // 2], list(shape))


def test_geglu_far_from_zero_stays_finite() -> None:
    gates = np.float32([-1e30, -1e4, -50.0, 0.0, 50.0, 1e4, 1e30])
    x = paddle.to_tensor(np.stack([np.full(7, 2.0, np.float32), gates], 1), stop_gradient=False)
    out = cpu_kernels.geglu(x)
    out.sum().backward()
    np.testing.assert_allclose(out.numpy()[:, 0], [0, 0, 0, 0, 100, 2e4, 2e30], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(x.grad.numpy()[:, 0], [0, 0, 0, 0, 50, 1e4, 1e30], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(x.grad.numpy()[:, 1], [0, 0, 0, 1, 2, 2, 2], rtol=1e-6, atol=1e-7)


WRONG: dict[str, Callable[[Tensor], Tensor]] = {
    "layer_norm: weight has 5 values, x's last axis 8": lambda x: layer_norm(x, paddle.ones([5]), None),
    "layer_norm: bias has 5 values, x's last axis 8": lambda x: layer_norm(x, None, paddle.ones([5])),
    "rms_norm: weight has 5 values, x's last axis 8": lambda x: cpu_kernels.rms_norm(
        x, paddle.ones([5]), EPS
    ),
    "add_rms_norm: branch has 8 values in 1 axes, x 16 in 2": lambda x: add_rms_norm(x, x[0], x[0]),
    "geglu: x's last axis is 7, expected an even one": lambda x: cpu_kernels.geglu(x[:, :7]),
    "group_norm: groups is 3, x has 8 channels": lambda x: group_norm(3)(x, None, None),
    "group_norm: weight has 5 values, x's channels are 8": lambda x: group_norm(2)(x, paddle.ones([5]), None),
}


@pytest.mark.parametrize("message", WRONG)
def test_a_wrong_argument_is_named_with_both_values(message: str) -> None:
    with pytest.raises(Exception, match=message):
        WRONG[message](paddle.ones([2, 8]))


def test_few_numbers_are_left_to_paddle(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("an operator of ours ran")

    monkeypatch.setattr(cpu_kernels, "FEW", 17)
    monkeypatch.setattr(cpu_kernels, "_run", forbidden)
    x, weight = paddle.to_tensor(oracle.draw(0, 2, 8).astype("float32")), paddle.ones([8])
    weight.stop_gradient = False  # with a frozen one Paddle's gradient of x is wrong
    for form in ("erf", "tanh"):
        np.testing.assert_array_equal(cpu_kernels.gelu(x, form).numpy(), plain_gelu(form)(x).numpy())
    of_layer, of_group = layer_norm(x, weight, None), group_norm(2)(x, weight, None)
    np.testing.assert_array_equal(of_layer.numpy(), F.layer_norm(x, 8, weight, None, EPS).numpy())
    np.testing.assert_array_equal(of_group.numpy(), F.group_norm(x, 2, EPS, weight).numpy())
    monkeypatch.setattr(cpu_kernels, "FEW", 16)
    with pytest.raises(AssertionError, match="ours ran"):
        layer_norm(x, weight, None)


@pytest.mark.parametrize("few", [0, 1 << 15])
@pytest.mark.parametrize("frozen", [False, True])
def test_bits_do_not_depend_on_whether_a_gradient_is_taken(
    few: int, frozen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block that is computed again going backward has to find what it found going forward."""
    monkeypatch.setattr(cpu_kernels, "FEW", few)
    data, weight, bias = oracle.draw(0, 24, 8).astype("float32"), paddle.ones([8]), paddle.zeros([8])
    weight.stop_gradient = bias.stop_gradient = frozen
    asked: list[tuple[str, str | None, tuple[object, ...]]] = [
        ("layer_norm", None, (weight, bias, EPS)),
        ("layer_norm", None, (None, None, EPS)),
        ("group_norm", None, (2, weight, bias, EPS)),
        ("group_norm", None, (2, None, None, EPS)),
        ("gelu", "tanh", ("tanh",)),
        ("gelu", "erf", ("erf",)),
        ("geglu", None, ()),
    ]
    for op, size_class, arguments in asked:
        found = []
        for training in (False, True):
            kernel = cpu_kernels.select(
                op, KernelRequest(dtype="float32", training=training, size_class=size_class)
            )
            assert isinstance(kernel, Kernel), kernel
            x = paddle.to_tensor(data, stop_gradient=not training)
            found.append(kernel.fn(x, *arguments).numpy())
        np.testing.assert_array_equal(*found, err_msg=f"{op} {arguments}")
