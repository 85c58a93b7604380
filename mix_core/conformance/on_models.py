"""L4, models: each family at its tiny size, beside the host's references."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from mix_core.conformance import tiny_runs
from mix_core.conformance.case import Case, Context, Group, expect
from mix_core.conformance.closeness import require_close, require_equal
from mix_core.conformance.host import GRADIENT, reference
from mix_core.conformance.target import FLOATS, Target

GROUP = Group("models")
LOGITS = {"float32": 1e-4, "bfloat16": 5e-2, "float16": 8e-3}
GRADIENTS = {"float32": 1e-3, "bfloat16": 0.15, "float16": 3e-2}
"""A model is some tens of operators deep; rounding adds up to a few times what one of them is allowed."""


def conformance_cases(target: Target) -> list[Case]:
    rows: list[tuple[str, str, Callable[[Context, str, str], None], tuple[str, ...]]] = [
        ("logits", "logits are the host's", _logits, FLOATS),
        ("gradients", "gradients of every parameter are the host's", _gradients, FLOATS),
        (
            "cache",
            "generation with the cache gives the tokens and logits of generation without",
            _cache,
            FLOATS,
        ),
        ("saved", "weights saved here give the same logits on the host", _saved, ("float32",)),
        ("reloaded", "weights saved here load here to the bit", _reloaded, FLOATS),
        ("repeated", "the same logits come out twice, to the bit", _repeated, FLOATS),
    ]
    return [
        Case(
            f"L4/{family}/{name}/{dtype}",
            f"{family} in {dtype}: {asks}",
            GROUP,
            lambda context, run=run, family=family, dtype=dtype: run(context, family, dtype),
            dtype=dtype,
            model=family,
            unless=target.lacks_dtype(dtype),
        )
        for family in tiny_runs.tiny_families()
        for name, asks, run, dtypes in rows
        for dtype in dtypes
    ]


def _logits(context: Context, family: str, dtype: str) -> None:
    wanted = reference(context.scratch, family, "model")["logits"]
    found = tiny_runs.logits(family, dtype)
    require_close(context, f"logits of {family}", found, wanted, LOGITS[dtype], f"the tiny batch, {dtype}")


def _gradients(context: Context, family: str, dtype: str) -> None:
    wanted = reference(context.scratch, family, "model")
    found = tiny_runs.gradients(family, dtype)
    names = {name.removeprefix(GRADIENT) for name in wanted if name.startswith(GRADIENT)}
    expect(set(found) == names, f"gradients of {sorted(set(found) ^ names)} are on one side only")
    for name, array in found.items():
        on = f"the tiny batch, {dtype}"
        wanted_here = wanted[GRADIENT + name]
        if (
            np.linalg.norm(wanted_here) < 1e-6
        ):  # a key's bias: it drops out of the softmax, what is left is rounding
            expect(
                float(np.abs(array).max()) < 1e-2,
                f"the gradient of {name} should vanish, got {np.abs(array).max()}",
            )
            continue
        distance = float(np.linalg.norm(array - wanted_here) / np.linalg.norm(wanted_here))
        limit = GRADIENTS[dtype] * context.factor
        context.note_distance(distance, limit)
        at = np.unravel_index(np.abs(array - wanted_here).argmax(), array.shape)
        expect(
            distance <= limit,
            f"the gradient of {name} is off by {distance:.2e} in norm (at most {limit:.2e}), worst at "
            f"{[int(i) for i in at]}: got {array[at]:.6g}, expected {wanted_here[at]:.6g}; on {on}",
        )


def _cache(context: Context, family: str, dtype: str) -> None:
    tokens, found = tiny_runs.answer(family, dtype, cached=True)
    plain, wanted = tiny_runs.answer(family, dtype, cached=False)
    on = f"{tiny_runs.NEW_TOKENS} tokens after the tiny batch, {dtype}"
    require_close(context, "logits with the cache", found, wanted, LOGITS[dtype], on)
    if dtype == "float32":  # narrow logits may tie
        require_equal("tokens with the cache", tokens, plain, on)


def _saved(context: Context, family: str, dtype: str) -> None:
    with TemporaryDirectory(dir=context.scratch) as name:
        _save(family, dtype, Path(name))
        wanted = reference(context.scratch, family, "loaded", Path(name))["logits"]
    found = tiny_runs.logits(family, dtype)
    require_close(context, "logits here", found, wanted, LOGITS[dtype], "weights that the host loaded")


def _save(family: str, dtype: str, folder: Path) -> dict[str, np.ndarray]:
    kind, tiny = tiny_runs.tiny_of(family)
    model, _ = tiny_runs.built(family)
    model.to(dtype=dtype)
    kind.save_weights(model, folder)
    kind.write_config(kind.config_from_dict(tiny.config), folder, dtype=dtype)
    return {name: parameter.numpy() for name, parameter in model.named_parameters()}


def _reloaded(context: Context, family: str, dtype: str) -> None:
    kind, tiny = tiny_runs.tiny_of(family)
    with TemporaryDirectory(dir=context.scratch) as name:
        wanted = _save(family, dtype, Path(name))
        model = kind.build(kind.config_from_dict(tiny.config))
        model.to(dtype=dtype)
        kind.load_weights(model, Path(name))
    for name, parameter in model.named_parameters():
        require_equal(f"{name} after loading", parameter.numpy(), wanted[name], f"the tiny model, {dtype}")


def _repeated(context: Context, family: str, dtype: str) -> None:
    first, second = (tiny_runs.logits(family, dtype) for _ in range(2))
    require_equal("logits of the second run", second, first, f"the tiny batch, {dtype}")
