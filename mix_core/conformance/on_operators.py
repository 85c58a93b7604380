"""L2, Paddle's operators that models call, in every dtype that the device declares.

Three passes: results, gradients and places (`op`), the same in place (`in_place`), and `strict`: without
Paddle's fallback to the CPU, what the chip's table holds has to run, and what it does not hold must not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from mix_core.conformance.case import OPERATORS, Case, Context, Mismatch, expect
from mix_core.conformance.closeness import FORWARD, require_close
from mix_core.conformance.measure import LAYOUTS, check_use, on_host, require_place, to_device, to_numpy
from mix_core.conformance.operator_uses import Kernel, kernels
from mix_core.conformance.target import Target
from mix_core.device import simulate

NARROW = ("bfloat16", "float16")
CLASSES = {"scatter": "scatter", "scatter_nd_add": "scatter"}
"""Operators that a profile has a class of its own for; the others are `default`."""
TABLE = Path(__file__).with_name("operators.json")
FALLBACK = "FLAGS_enable_api_kernel_fallback"


def conformance_cases(target: Target) -> list[Case]:
    cases: list[Case] = []
    seen: set[str] = set()
    for kernel in kernels():
        first = kernel.use.operator not in seen
        seen.add(kernel.use.operator)
        for dtype in kernel.dtypes or (
            "float32",
            "bfloat16",
            "float16",
            *(("float64",) if target.is_host else ()),
        ):
            floating = dtype.startswith(("float", "bfloat"))
            lacks = (
                target.lacks_dtype(dtype, CLASSES.get(kernel.use.operator, "default")) if floating else None
            )
            unless = lacks or _never_asked(target, kernel, dtype)
            for layout in LAYOUTS if first else LAYOUTS[:1]:
                cases.append(_result_case(kernel, dtype, layout, unless))
            if kernel.in_place:
                cases.append(_in_place_case(kernel, dtype, unless))
            cases.append(_strict_case(target, kernel, dtype, lacks))
    return [*cases, _black_list_case(target)]


def _never_asked(target: Target, kernel: Kernel, dtype: str) -> str | None:
    """The rule for a narrow dtype that the chip's kernel lacks: the CPU has none, and no model asks."""
    operators = (target.support or {}).get("operators")
    if operators is None or dtype not in NARROW:
        return None
    for name in kernel.covers:
        called = table()["kernels"].get(name, {}).get("dtypes", ())
        if dtype not in operators.get(name, ()) and dtype not in called:
            return f"the chip's table lacks {name} in {dtype}, and no model calls it so"
    return None


def _id(part: str, kernel: Kernel, dtype: str, *more: str) -> str:
    name = kernel.use.name.replace(", ", "+").replace(" ", "_")
    return "/".join(("L2", part, kernel.use.operator, name, *more, dtype))


def _result_case(kernel: Kernel, dtype: str, layout: str, unless: str | None) -> Case:
    return Case(
        _id("op", kernel, dtype, layout),
        f"{kernel.use.name} in {dtype}, inputs {layout}: result and gradients are the CPU's in float64",
        OPERATORS,
        lambda context: check_use(context, kernel.use, dtype, layout=layout),
        operator=kernel.use.operator,
        dtype=dtype,
        unless=unless,
    )


def _in_place_case(kernel: Kernel, dtype: str, unless: str | None) -> Case:
    def run(context: Context) -> None:
        import paddle

        use = kernel.use
        tensors = [to_device(inner.draw(seed), dtype) for seed, inner in enumerate(use.inputs)]
        wide = [to_numpy(tensor) for tensor in tensors]
        with on_host():
            wanted = use.formula(*(paddle.to_tensor(array.astype("float64")) for array in wide)).numpy()
        rest = _rest_of(use.name)
        result = getattr(tensors[0], str(kernel.in_place))(*tensors[1:], *rest)
        on = f"{use}, {dtype}"
        require_place(context, tensors[0], "the tensor that was changed")
        require_close(
            context, f"what {kernel.in_place} returns", to_numpy(result), wanted, FORWARD[dtype], on
        )
        require_close(
            context, f"the tensor after {kernel.in_place}", to_numpy(tensors[0]), wanted, FORWARD[dtype], on
        )

    return Case(
        _id("in_place", kernel, dtype),
        f"{kernel.in_place} in {dtype} changes its tensor, where it lies",
        OPERATORS,
        run,
        operator=kernel.use.operator,
        dtype=dtype,
        unless=unless,
    )


def _rest_of(name: str) -> tuple[Any, ...]:
    """Further arguments of a method, as its use has them."""
    return (0.37, 0.5) if name == "scale" else ()


def _strict_case(target: Target, kernel: Kernel, dtype: str, unless: str | None) -> Case:
    calls = table()["uses"].get(kernel.use.name, {}).get(dtype)
    if target.is_host:
        unless = unless or "the host falls back to nothing"
    elif calls is None:
        unless = unless or f"what it calls in {dtype} is not in operators.json"
    return Case(
        _id("strict", kernel, dtype),
        f"{kernel.use.name} in {dtype} runs without fallback exactly where the chip's table has its kernels",
        OPERATORS,
        _strict(kernel, dtype, tuple(tuple(call.split(":")) for call in calls or ())),
        operator=kernel.use.operator,
        dtype=dtype,
        unless=unless,
    )


def _strict(kernel: Kernel, dtype: str, calls: tuple[tuple[str, ...], ...]) -> Callable[[Context], None]:
    def run(context: Context) -> None:
        chip = _chip(context.target)
        verdicts = {f"{name} in {of}": chip.verdict(name, of) for name, of in calls}
        # what is black-listed goes to the CPU with or without the flag, where the chip has a kernel at all
        table = chip.table
        lacking = [
            f"{name} in {of}" for name, of in calls if table is not None and of not in chip.dtypes(name)
        ]
        context.facts["fallbacks"] = [call for call, verdict in verdicts.items() if verdict != "native"]
        refused = None
        with _no_fallback():
            try:
                check_use(context, kernel.use, dtype)
            except Mismatch:
                raise
            except Exception as error:  # noqa: BLE001 (Paddle raises several kinds; the text is told)
                refused = " ".join(str(error).split())[-300:]
        if lacking:
            expect(
                refused is not None,
                f"it ran without fallback, but the chip's table lacks {', '.join(lacking)}: the table is "
                f"wrong, or this Paddle does not honour {FALLBACK}=0",
            )
        else:
            expect(refused is None, f"the chip's table has all it needs, but without fallback: {refused}")

    return run


@contextmanager
def _no_fallback() -> Iterator[None]:
    """Paddle looks at the flag whenever it looks for a kernel."""
    import paddle

    before = paddle.get_flags(FALLBACK)
    paddle.set_flags({FALLBACK: False})
    try:
        yield
    finally:
        paddle.set_flags(before)


@lru_cache(maxsize=1)
def table() -> dict[str, Any]:
    """operators.json: `kernels` that models were seen to call, and `uses`, what each use here calls."""
    found: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
    return found


_chips: dict[str, Any] = {}


def _chip(target: Target) -> Any:
    """What decides where a kernel runs, asked of the paddle that is loaded."""
    import os

    from paddle import base

    from mix_core.device import audit_kernels
    from mix_core.device.audit import Chip

    if target.name not in _chips:
        core: Any = base.core
        known = core._get_all_register_op_kernels("phi")
        names = os.environ.get("CUSTOM_DEVICE_BLACK_LIST", "").split(",")
        listed = frozenset(core._get_phi_kernel_name(name) for name in names if name in known)
        registered = audit_kernels.sorted_out(core._get_registered_phi_kernels("function"))
        operators = (target.support or {}).get("operators")
        _chips[target.name] = Chip(operators, listed, registered["everywhere"], registered["cpu"])
    return _chips[target.name]


def _black_list_case(target: Target) -> Case:
    unless = None if target.simulated else "only a simulated device counts what runs on the CPU"
    asks = "operators of the plugin's black list run on the CPU, and their results come back to the device"
    return Case("L2/black_list/applied", asks, OPERATORS, _black_list, unless=unless)


def _black_list(context: Context) -> None:
    """Every black-listed kernel that a use covers falls back when that use runs."""
    from mix_core.device import Workload
    from mix_core.device.composition import ask_layer

    chip = _chip(context.target)
    wanted = ask_layer("the plugin", context.target.module, Workload()).blacklisted_ops
    from paddle import base

    core: Any = base.core
    listed = {core._get_phi_kernel_name(name) for name in wanted}
    expect(
        listed <= chip.black_list,
        f"{', '.join(sorted(listed - chip.black_list))} is not on Paddle's black list",
    )
    for kernel in kernels():
        named = listed & set(kernel.covers)
        if not named:
            continue
        dtype = (kernel.dtypes or ("float32",))[0]
        simulate.reset_counters()
        check_use(context, kernel.use, dtype)
        fallen = {name.split(":")[0] for name in simulate.counters()["fallbacks"]}
        expect(named <= fallen, f"{', '.join(sorted(named - fallen))} is black-listed and ran on the device")
