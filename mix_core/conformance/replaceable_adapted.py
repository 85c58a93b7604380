"""The uses of operators whose maps have adapters.

Shapes: D model dim, F feed-forward width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from mix_core.conformance.measure import Input, Use
from mix_core.conformance.replaceable_attention import _formula, _ops

SCALE = 0.5


def uses() -> list[Use]:
    return [*_linear(), *_mlp()]


def _pair(name: str, inputs: int, outputs: int, rank: int) -> tuple[Input, Input]:
    down = Input(f"{name} down", (inputs, rank), inputs**-0.5)
    return down, Input(f"{name} up", (rank, outputs), rank**-0.5)


def _linear() -> Iterator[Use]:
    linear = _formula("linear")
    for name, lead, width, outputs, ranks in (
        ("plain", (5,), 24, (16,), (4,)),
        ("three maps", (2, 3), 65, (33, 17, 17), (3, 8, 1)),
        ("many rows", (67,), 40, (33, 24), (16, 0)),
    ):
        count = len(outputs)
        weights = [Input(f"weight {i}", (width, n), width**-0.5) for i, n in enumerate(outputs)]
        biases = [Input(f"bias {i}", (n,)) for i, n in enumerate(outputs)]
        pairs = [
            inner
            for i, (n, rank) in enumerate(zip(outputs, ranks))
            if rank
            for inner in _pair(f"adapter {i}", width, n, rank)
        ]
        x = Input("x", (*lead, width))
        yield Use(
            "adapted_linear",
            name,
            (x, *weights, *biases, *pairs),
            _linear_call(count, ranks),
            lambda x, *rest, count=count, ranks=ranks: tuple(
                linear(x, weight, bias)
                for weight, bias in zip(_merged(rest, count, 2 * count, ranks), rest[count : 2 * count])
            ),
        )
        yield Use(
            "adapted_linear",
            f"{name}, no biases",
            (x, *weights, *pairs),
            _linear_call(count, ranks, biased=False),
            lambda x, *rest, count=count, ranks=ranks: tuple(
                linear(x, weight) for weight in _merged(rest, count, count, ranks)
            ),
        )


def _linear_call(count: int, ranks: tuple[int, ...], biased: bool = True) -> Callable[..., Any]:
    def call(x: Any, *rest: Any) -> Any:
        ends = 2 * count if biased else count
        biases = rest[count:ends] or None
        return _ops("adapted_linear")(x, rest[:count], biases, _adapters(rest[ends:], ranks))

    return call


def _mlp() -> Iterator[Use]:
    linear, swiglu = _formula("linear"), _formula("swiglu")
    for name, lead, D, F, ranks in (
        ("plain", (5,), 24, 40, (4, 4, 4)),
        ("three axes", (2, 3), 40, 131, (3, 0, 8)),
        ("many rows", (67,), 40, 56, (16, 16, 16)),
    ):
        x = Input("x", (*lead, D))
        gate, up = (Input(part, (D, F), D**-0.5) for part in ("gate", "up"))
        down = Input("down", (F, D), F**-0.5)
        pairs = [
            inner
            for part, inputs, outputs, rank in zip(("gate", "up", "down"), (D, D, F), (F, F, D), ranks)
            if rank
            for inner in _pair(part, inputs, outputs, rank)
        ]

        def formula(x: Any, *rest: Any, ranks: tuple[int, ...] = ranks) -> Any:
            of_gate, of_up, of_down = _merged(rest, 3, 3, ranks)
            return linear(swiglu(linear(x, of_gate), linear(x, of_up)), of_down)

        yield Use(
            "adapted_mlp",
            name,
            (x, gate, up, down, *pairs),
            lambda x, *rest, ranks=ranks: _ops("adapted_mlp")(x, rest[:3], None, _adapters(rest[3:], ranks)),
            formula,
        )


def _adapters(matrices: tuple[Any, ...], ranks: tuple[int, ...]) -> tuple[Any, ...]:
    """For each map its adapter, or None."""
    from mix_core.ops.low_rank import LowRank

    pairs = iter(zip(matrices[::2], matrices[1::2]))
    return tuple(LowRank(*next(pairs), SCALE) if rank else None for rank in ranks)


def _merged(rest: tuple[Any, ...], count: int, ends: int, ranks: tuple[int, ...]) -> list[Any]:
    """The first `count` weights with what stands behind `ends` added."""
    adapters = _adapters(rest[ends:], ranks)
    return [
        weight if one is None else weight + SCALE * (one[0] @ one[1])
        for weight, one in zip(rest[:count], adapters)
    ]
