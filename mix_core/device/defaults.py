"""Core's own hooks, lowest in every device's manager: settings and checks that hold for any device."""

from __future__ import annotations

from mix_core.device.hookspec import hookimpl
from mix_core.device.values import Check, Decision, Workload
from mix_core.errors import DeviceError

SOURCE = "core"
"""What rows of these settings name as their source."""

TOLERANCE = 5e-3
"""Relative error in norm of a float32 product that may be computed in TF32, against float64."""


@hookimpl
def mix_environment(workload: Workload) -> dict[str, Decision]:
    return {
        "FLAGS_tcp_store_using_libuv": Decision(
            False,
            "with libuv the store's thread logs after Paddle's log is gone: a rank 0 that ends while another "
            "leaves dies of SIGABRT or SIGSEGV (seen with Paddle 3.3.1)",
            "runtime",
        )
    }


@hookimpl
def mix_checks() -> list[Check]:
    return [
        Check("copy to the device and back", check_copies),
        Check("product against float64", check_product),
        Check("gradient", check_gradient),
    ]


def check_copies() -> str:
    """Bytes that go to the device and come back are the same."""
    import numpy as np
    import paddle

    there = np.random.default_rng(0).standard_normal(1 << 16).astype(np.float32)
    back = paddle.to_tensor(there).numpy()
    if not np.array_equal(there, back):
        raise DeviceError(f"{int((there != back).sum())} of {there.size} values changed on the way")
    return f"{there.nbytes} bytes unchanged"


def check_product() -> str:
    """A float32 matrix product agrees with numpy's float64 product."""
    import numpy as np
    import paddle

    rng = np.random.default_rng(1)
    a_MK = rng.standard_normal((128, 256)).astype(np.float32)
    b_KN = rng.standard_normal((256, 64)).astype(np.float32)
    exact = a_MK.astype(np.float64) @ b_KN.astype(np.float64)
    got = paddle.matmul(paddle.to_tensor(a_MK), paddle.to_tensor(b_KN)).numpy()
    error = float(np.linalg.norm(got - exact) / np.linalg.norm(exact))
    if not error < TOLERANCE:
        raise DeviceError(f"relative error {error:.1e}, at most {TOLERANCE:.0e} expected")
    return f"relative error {error:.1e}"


def check_gradient() -> str:
    """The gradient of sum(x * x) is 2 x."""
    import numpy as np
    import paddle

    x = np.linspace(-2.0, 2.0, 257, dtype=np.float32)
    tensor = paddle.to_tensor(x, stop_gradient=False)
    (tensor * tensor).sum().backward()
    if tensor.grad is None or not np.allclose(tensor.grad.numpy(), 2 * x, rtol=1e-5):
        raise DeviceError("the gradient of sum(x * x) is not 2 x")
    return "exact within 1e-5"
