"""L3: what the operators promise beside their formulas: masks that hide all, slots that must not count,
labels that are absent, updates in place, draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mix_core.conformance.case import OPERATORS, Case, Context, expect
from mix_core.conformance.closeness import FORWARD, require_close, require_equal
from mix_core.conformance.measure import require_place, to_device, to_numpy
from mix_core.conformance.target import FLOATS, Target

# With beta2 = 0.99 the two corrections of the first step would cancel, and a kernel without them pass.
STEP = {
    "learning_rate": 1e-2,
    "beta1": 0.9,
    "beta2": 0.95,
    "epsilon": 1e-8,
    "weight_decay": 0.1,
    "grad_scale": 1.0,
}
STEPS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("first step", {"step": 1}),
    ("step 10", {"step": 10}),
    ("no decay", {"step": 3, "weight_decay": 0.0}),
    ("scaled gradients", {"step": 3, "grad_scale": 0.125}),
    ("large epsilon", {"step": 3, "epsilon": 0.1}),
)
DRAWS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("greedy", {"temperature": 0.0}),
    ("temperature 1", {"temperature": 1.0}),
    ("temperature 2", {"temperature": 2.0}),
    ("top_k", {"temperature": 1.0, "top_k": 5}),
    ("top_p", {"temperature": 2.0, "top_p": 0.6}),
    ("top_k, top_p", {"temperature": 3.0, "top_k": 9, "top_p": 0.8}),
    ("small top_p", {"temperature": 1.0, "top_p": 1e-4}),
)


def conformance_cases(target: Target) -> list[Case]:
    rows: list[tuple[str, str, str, Callable[[Context, str], None]]] = [
        ("attention", "query that sees nothing", "its result is finite, the others are right", _blind),
        ("attention_decode", "slots beyond", "numbers in slots beyond a row's length do not count", _beyond),
        ("linear_cross_entropy", "no label", "the loss is 0, the count 0, gradients are zeros", _no_label),
        ("linear_cross_entropy", "count", "the number of labels is a Python int", _count),
    ]
    rows += [("adamw", name, "parameters and moments are the formula's", _stepping(o)) for name, o in STEPS]
    rows += [("adamw", "five steps", "five steps in a row are the formula's", _five_steps)]
    rows += [("sampling", name, "tokens are those of the formula", _drawing(o)) for name, o in DRAWS]
    return [
        Case(
            f"L3/{operator}/{name.replace(', ', '+').replace(' ', '_')}/{dtype}",
            f"{operator} ({name}) in {dtype}: {asks}",
            OPERATORS,
            lambda context, run=run, dtype=dtype: run(context, dtype),
            operator=operator,
            dtype=dtype,
            unless=target.lacks_dtype(dtype),
        )
        for operator, name, asks, run in rows
        for dtype in FLOATS
    ]


def _drawn(shape: tuple[int, ...], seed: int, dtype: str) -> tuple[Any, np.ndarray]:
    """A device tensor and its numbers."""
    tensor = to_device(np.random.default_rng(seed).standard_normal(shape), dtype)
    return tensor, to_numpy(tensor)


def _blind(context: Context, dtype: str) -> None:
    import paddle

    from mix_core import ops

    keep = np.ones((1, 1, 6, 6), bool)
    keep[0, 0, 2] = False
    qkv = [_drawn((1, 6, 2, 16), seed, dtype)[0] for seed in range(3)]
    hidden = to_numpy(ops.attention(*qkv, causal=False, mask_BNSS=paddle.to_tensor(keep)))
    plain = to_numpy(ops.attention(*qkv, causal=False))
    expect(bool(np.isfinite(hidden).all()), "a query that sees nothing makes numbers that are not finite")
    others = [0, 1, 3, 4, 5]
    require_close(
        context, "the other queries", hidden[:, others], plain[:, others], 2 * FORWARD[dtype], "6 queries"
    )


def _beyond(context: Context, dtype: str) -> None:
    from mix_core import ops

    lengths = np.array([3, 20, 1], np.int32)
    q = _drawn((3, 4, 16), 0, dtype)[0]
    (k, keys), (v, values) = _drawn((3, 2, 20, 16), 1, dtype), _drawn((3, 2, 20, 16), 2, dtype)
    plain = to_numpy(ops.attention_decode(q, k, v, lengths_B=lengths))
    for row, length in enumerate(lengths):
        keys[row, :, length:], values[row, :, length:] = 1e4, -1e4
    found = ops.attention_decode(q, to_device(keys, dtype), to_device(values, dtype), lengths_B=lengths)
    require_close(
        context, "the result", to_numpy(found), plain, FORWARD[dtype], "10000 in slots beyond 3, 20 and 1"
    )


def _no_label(context: Context, dtype: str) -> None:
    from mix_core import ops

    hidden, weight = _drawn((4, 8), 0, dtype)[0], _drawn((6, 8), 1, dtype)[0]
    hidden.stop_gradient = weight.stop_gradient = False
    loss, count = ops.linear_cross_entropy(hidden, weight, np.full(4, -100))
    expect(
        count == 0 and float(loss) == 0.0, f"with no label the loss is {float(loss)} and the count {count}"
    )
    loss.backward()
    for name, tensor in (("hidden", hidden), ("weight", weight)):
        if tensor.grad is None:
            expect(name == "weight", f"with no label {name} got no gradient, expected zeros")
            continue
        found = to_numpy(tensor.grad)
        require_equal(f"the gradient of {name}", found, np.zeros_like(found), "no label")


def _count(context: Context, dtype: str) -> None:
    from mix_core import ops

    hidden, weight = _drawn((4, 8), 0, dtype)[0], _drawn((6, 8), 1, dtype)[0]
    loss, count = ops.linear_cross_entropy(hidden, weight, np.array([1, -100, 0, 5]))
    expect(type(count) is int and count == 3, f"the count is {count!r}, expected the int 3")
    expect(str(loss.dtype) == "paddle.float32" and loss.shape == [], f"the loss is {loss.dtype} {loss.shape}")


def _state(dtype: str) -> tuple[list[list[Any]], list[tuple[np.ndarray, ...]]]:
    """Tensors by list (parameters, gradients, means, squares), and the numbers of each parameter."""
    shapes = ((5, 7), (33,), (64, 17), (1,))
    lists: list[list[Any]] = [[], [], [], []]
    arrays = []
    for number, shape in enumerate(shapes):
        rng = np.random.default_rng(number)
        values = [rng.standard_normal(shape) for _ in range(3)] + [rng.uniform(0.01, 1.0, shape)]
        tensors = [to_device(v, dtype if i < 2 else "float32") for i, v in enumerate(values)]
        for part, tensor in zip(lists, tensors):
            part.append(tensor)
        arrays.append(tuple(to_numpy(tensor) for tensor in tensors))
    return lists, arrays


def _compare_state(context: Context, lists: list[list[Any]], wanted: list[Any], dtype: str, on: str) -> None:
    for number, arrays in enumerate(wanted):
        for what, part, array in zip(("parameter", "mean", "square"), (0, 2, 3), arrays):
            tensor = lists[part][number]
            require_place(context, tensor, f"{what} {number}")
            limit = FORWARD[dtype if what == "parameter" else "float32"]
            require_close(context, f"{what} {number}", to_numpy(tensor), array, limit, on)


def _stepping(options: dict[str, Any]) -> Callable[[Context, str], None]:
    def run(context: Context, dtype: str) -> None:
        from mix_core import ops
        from mix_core.conformance import formulas

        lists, arrays = _state(dtype)
        wanted = [formulas.adamw(one, **{**STEP, **options}) for one in arrays]
        ops.adamw(*lists, **{**STEP, **options})
        _compare_state(context, lists, wanted, dtype, f"4 parameters, {dtype}, { ({**STEP, **options}) }")

    return run


def _five_steps(context: Context, dtype: str) -> None:
    from mix_core import ops
    from mix_core.conformance import formulas

    lists, arrays = _state(dtype)
    states = [(p, m, s) for p, _, m, s in arrays]
    for step in range(1, 6):
        gradients = [
            np.random.default_rng(100 * step + i).standard_normal(p.shape)
            for i, (p, _, _) in enumerate(states)
        ]
        lists[1] = [to_device(gradient, dtype) for gradient in gradients]
        rounded = [to_numpy(gradient) for gradient in lists[1]]
        states = [formulas.adamw((p, g, m, s), step=step, **STEP) for (p, m, s), g in zip(states, rounded)]
        ops.adamw(*lists, step=step, **STEP)
    _compare_state(context, lists, states, dtype, f"4 parameters, {dtype}, steps 1 to 5")


def _drawing(options: dict[str, Any]) -> Callable[[Context, str], None]:
    def run(context: Context, dtype: str) -> None:
        from mix_core import ops
        from mix_core.conformance import formulas

        rng = np.random.default_rng(4)
        logits = np.stack([rng.permutation(120) - 60 for _ in range(16)]) / 8.0  # exact in 16 bits
        uniform = rng.random(16).astype(np.float32)
        found = ops.sampling(to_device(logits, dtype), **options, uniform_B=uniform)
        require_place(context, found, "the tokens")
        rest = (options["temperature"], options.get("top_k", 0), options.get("top_p", 1.0), uniform)
        require_equal(
            "the tokens",
            to_numpy(found),
            formulas.sampling(logits, *rest),
            f"16 rows of 120 logits, {options}",
        )
        expect(str(found.dtype) == "paddle.int64", f"the tokens are {found.dtype}, expected int64")

    return run
