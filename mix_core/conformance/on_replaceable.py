"""L3, the operators that a device may replace, each held to its formula (docs/operators.md) in every dtype.

What runs is whatever `mix_core.ops` chooses on this device: the plugin's kernel, or the reference on the
device's own operators. The report names it.
"""

from __future__ import annotations

from collections.abc import Callable

from mix_core.conformance import (
    replaceable_attention,
    replaceable_rest,
    replaceable_special,
    replaceable_whole,
)
from mix_core.conformance.case import OPERATORS, Case, Context
from mix_core.conformance.measure import Use, check_use
from mix_core.conformance.target import FLOATS, Target

NARROW_PRODUCTS = frozenset(
    {"linear", "linear_cross_entropy", "qkv", "gated_mlp", "attention", "attention_packed"}
    | {"adapted_linear", "adapted_mlp"}
)
NO_PRODUCTS = "the profile declares no narrow products of float32 tensors"


def conformance_cases(target: Target) -> list[Case]:
    uses = [*replaceable_attention.uses(), *replaceable_rest.uses(), *replaceable_whole.uses()]
    cases = []
    for use in uses:
        for dtype in FLOATS:
            cases.append(_case(target, use, dtype, "", {}))
    for use in _first_of_each(uses):
        for dtype in FLOATS:
            for layout in ("transposed", "sliced"):
                cases.append(_case(target, use, dtype, f", inputs {layout}", {"layout": layout}))
        floating = [inner for inner in use.inputs if inner.floating]
        for number, inner in enumerate(floating if use.gradient and len(floating) > 1 else ()):
            cases.append(_case(target, use, "float32", f", {inner.name} frozen", {"frozen": number}))
    cases += _narrow_products(target, uses)
    return cases + replaceable_special.conformance_cases(target)


def _narrow_products(target: Target, uses: list[Use]) -> list[Case]:
    """Products in 16 bits from float32 tensors, where the profile declares them (class `products`)."""
    about = [use for use in uses if use.operator in NARROW_PRODUCTS]
    return [
        Case(
            f"L3/{use.operator}/{use.name.replace(', ', '+').replace(' ', '_')}/float32+{dtype}_products",
            f"{use.operator} ({use.name}) of float32 tensors with {dtype} products: right within {dtype}",
            OPERATORS,
            lambda context, use=use, dtype=dtype: _run_narrow(context, use, dtype),
            operator=use.operator,
            dtype="float32",
            unless=None if dtype in target.profile.dtypes.get("products", ()) else NO_PRODUCTS,
        )
        for use in about
        for dtype in FLOATS[1:]
    ]


def _run_narrow(context: Context, use: Use, dtype: str) -> None:
    import paddle

    from mix_core.ops.dtypes import products_in

    with products_in(getattr(paddle, dtype), inside=True):
        check_use(context, use, "float32", limits=dtype)
    note_kernels(context, use.operator, "float32")


def _first_of_each(uses: list[Use]) -> list[Use]:
    first: dict[str, Use] = {}
    for use in uses:
        first.setdefault(use.operator, use)
    return list(first.values())


def _case(target: Target, use: Use, dtype: str, how: str, options: dict[str, object]) -> Case:
    name = (use.name + how).replace(", ", "+").replace(" ", "_")
    wants = "result and gradients are" if use.gradient else "the result is"
    return Case(
        f"L3/{use.operator}/{name}/{dtype}",
        f"{use.operator} ({use.name}{how}) in {dtype}: {wants} the formula's",
        OPERATORS,
        _run(use, dtype, options),
        operator=use.operator,
        dtype=dtype,
        unless=target.lacks_dtype(dtype),
    )


def _run(use: Use, dtype: str, options: dict[str, object]) -> Callable[[Context], None]:
    def run(context: Context) -> None:
        try:
            check_use(context, use, dtype, **options)  # type: ignore[arg-type]
        finally:
            note_kernels(context, use.operator, dtype)

    return run


def note_kernels(context: Context, operator: str, dtype: str) -> None:
    """Which kernels have served the operator so far, for the report."""
    assert context.active is not None
    rows = context.active.to_json()["kernels"]
    names = {row["kernel"] for row in rows if row["op"] == operator and row["dtype"] == dtype}
    if names:
        context.facts["kernel"] = ", ".join(sorted(names))
