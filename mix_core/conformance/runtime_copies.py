"""L1: copies in all directions and sizes, to the bit; and the device's random state.

Shapes: n numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mix_core.conformance.case import RUNTIME, Case, Context, expect
from mix_core.conformance.closeness import require_close, require_equal
from mix_core.conformance.target import Target

SIZES = (1, 3, 255, 4097, 1 << 20, (5 << 20) + 3)
DTYPES = ("float32", "int64", "int32", "bool", "float64", "uint8")
DRAWS = 1000


def conformance_cases(target: Target) -> list[Case]:
    cases = [
        Case(
            f"L1/copy/{direction}/{n}",
            f"{n} numbers survive a copy {words} to the bit",
            RUNTIME,
            lambda context, run=run, n=n: run(n),
        )
        for direction, words, run in (
            ("round_trip", "to the device and back", _round_trip),
            ("on_device", "from one place on the device to another", _on_device),
            ("strided", "of every second number of a host array", _strided),
        )
        for n in SIZES
    ]
    for dtype in (*DTYPES, *(d for d in ("bfloat16", "float16") if target.profile.supports_dtype(d))):
        asks = f"{dtype} numbers survive a copy to the device and back to the bit"
        cases.append(
            Case(
                f"L1/copy/dtype/{dtype}",
                asks,
                RUNTIME,
                lambda context, dtype=dtype: _dtype(dtype),
                dtype=dtype,
            )
        )
    for name, asks, run in (
        ("copy/arrives", "what arrives on the device is what the device itself makes", _arrives),
        ("copy/repeated", "200 copies of changing sizes arrive whole", _repeated),
        (
            "copy/source_reused",
            "a host array may be written to as soon as the copy call returns",
            _source_reused,
        ),
        ("copy/place", "tensors are made on the device that was activated", _place),
        ("random/same_seed", "the same seed gives the same numbers, another seed others", _same_seed),
        ("random/state", "get_random_state and set_random_state bring the same numbers again", _state),
        ("random/state_on_host", "the host's numbers come again with the state too", _host_state),
        ("random/distribution", "uniform and normal numbers have their mean and spread", _distribution),
    ):
        cases.append(Case(f"L1/{name}", asks, RUNTIME, run))
    return cases


def _numbers(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(n).astype(np.float32)


def _round_trip(n: int) -> None:
    import paddle

    array = _numbers(n)
    require_equal("the copy", paddle.to_tensor(array).numpy(), array, f"{n} float32 numbers")


def _on_device(n: int) -> None:
    import paddle

    array = _numbers(n)
    first = paddle.to_tensor(array)
    second = paddle.assign(first)
    first.set_value(paddle.zeros([n]))
    require_equal("the copy, its source overwritten,", second.numpy(), array, f"{n} float32 numbers")
    require_equal("the overwritten source", first.numpy(), np.zeros(n, np.float32), f"{n} float32 numbers")


def _strided(n: int) -> None:
    import paddle

    array = _numbers(2 * n)[::2]
    require_equal("the copy", paddle.to_tensor(array).numpy(), array, f"every second of {2 * n} numbers")


def _dtype(dtype: str) -> None:
    import paddle

    array = np.random.default_rng(1).integers(0, 2 if dtype == "bool" else 100, 1027)
    if dtype in ("bfloat16", "float16"):
        narrow = paddle.to_tensor(array.astype(np.float32)).astype(dtype)
        back = paddle.to_tensor(narrow.numpy()).astype("float32").numpy()
        require_equal("the copy", back, array.astype(np.float32), f"1027 whole numbers in {dtype}")
        return
    host = array.astype(dtype)
    tensor = paddle.to_tensor(host)
    expect(str(tensor.dtype) == f"paddle.{dtype}", f"the copy of a {dtype} array has dtype {tensor.dtype}")
    require_equal("the copy", tensor.numpy(), host, f"1027 numbers in {dtype}")


def _arrives(context: Context) -> None:
    """Compared on the device: a fault that strikes on the way there and back may cancel."""
    import paddle

    for n in SIZES:
        found = paddle.to_tensor(np.arange(n, dtype=np.float32))
        equal = paddle.equal_all(found, paddle.arange(n, dtype="float32"))
        expect(bool(equal), f"numbers 0 to {n - 1} copied to the device are not those that the device makes")


def _repeated(context: Context) -> None:
    import paddle

    kept = []
    for i in range(200):
        array = _numbers(1 + (i * 7919) % 20000, seed=i)
        kept.append((paddle.to_tensor(array), array))
    for i, (tensor, array) in enumerate(kept):
        require_equal(f"copy {i}", tensor.numpy(), array, f"{len(array)} numbers, 200 copies alive at once")


def _source_reused(context: Context) -> None:
    import paddle

    array = _numbers(1 << 20)
    wanted = array.copy()
    tensor = paddle.to_tensor(array)
    array[:] = -1.0
    require_equal("the copy", tensor.numpy(), wanted, "1048576 numbers, overwritten after the call")


def _place(context: Context) -> None:
    import paddle

    assert context.active is not None
    for what, tensor in (
        ("to_tensor", paddle.to_tensor([1.0])),
        ("zeros", paddle.zeros([2])),
        ("randn", paddle.randn([2])),
    ):
        expect(
            on_device(tensor, context.active),
            f"{what} makes a tensor on {tensor.place}, not on {context.active.place}",
        )


def on_device(tensor: Any, active: Any) -> bool:
    """Whether a tensor lies where the activation says."""
    import paddle

    return str(tensor.place) == str(paddle.framework._current_expected_place())


def _same_seed(context: Context) -> None:
    import paddle

    paddle.seed(7)
    first = paddle.randn([DRAWS]).numpy()
    paddle.seed(7)
    again = paddle.randn([DRAWS]).numpy()
    paddle.seed(8)
    other = paddle.randn([DRAWS]).numpy()
    require_equal(
        "the numbers of the same seed", again, first, f"paddle.randn([{DRAWS}]) after paddle.seed(7)"
    )
    expect(not np.array_equal(first, other), "seeds 7 and 8 give the same numbers")


def _state(context: Context) -> None:
    import paddle

    assert context.active is not None
    runtime = context.active.runtime
    paddle.seed(3)
    paddle.randn([10])
    state = {name: np.array(values) for name, values in runtime.get_random_state().items()}
    first = [paddle.randn([DRAWS]).numpy(), paddle.uniform([DRAWS]).numpy()]
    runtime.set_random_state(state)
    again = [paddle.randn([DRAWS]).numpy(), paddle.uniform([DRAWS]).numpy()]
    for what, one, other in zip(("randn", "uniform"), first, again):
        require_equal(f"{what} after the state was put back", other, one, f"{DRAWS} draws")
    expect(
        not np.array_equal(first[0], paddle.randn([DRAWS]).numpy()),
        "the numbers repeat without a state put back",
    )


def _host_state(context: Context) -> None:
    import paddle

    assert context.active is not None
    runtime = context.active.runtime
    place = paddle.get_device()
    draws = []
    state = runtime.get_random_state()
    try:
        for _ in range(2):
            paddle.set_device("cpu")
            draws.append(paddle.randn([DRAWS]).numpy())
            runtime.set_random_state(state)
    finally:
        paddle.set_device(place)
    require_equal(
        "the host's draw after the state was put back", draws[1], draws[0], "paddle.randn on the host"
    )


def _distribution(context: Context) -> None:
    import paddle

    n = 1 << 18
    paddle.seed(11)
    normal, uniform = paddle.randn([n]).numpy(), paddle.uniform([n], min=0.0, max=1.0).numpy()
    facts = {"normal mean": normal.mean(), "normal spread": normal.std() - 1.0}
    facts |= {"uniform mean": uniform.mean() - 0.5, "uniform spread": uniform.std() - 12**-0.5}
    for what, off in facts.items():  # five standard errors
        expect(abs(off) < 5 / np.sqrt(n), f"the {what} of {n} draws is off by {off:.2e}")
    expect(bool((uniform >= 0).all() and (uniform <= 1).all()), "uniform numbers lie outside of [0, 1]")
    require_close(
        context,
        "a tenth of uniform numbers below 0.1",
        np.array((uniform < 0.1).mean()),
        np.array(0.1),
        0.02,
        f"{n} draws",
    )
