"""How close a result has to be to its reference, and how a difference is told.

Limits are those of docs/operators.md: norms of the difference over norms of the reference, by dtype. One
wrong element among many hides in a norm, so that each is held to a multiple of the same limit too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mix_core.conformance.case import Mismatch

if TYPE_CHECKING:
    from mix_core.conformance.case import Context

FORWARD = {"float64": 1e-12, "float32": 2e-6, "bfloat16": 2e-2, "float16": 3e-3}
GRADIENT = {"float64": 1e-11, "float32": 1e-5, "bfloat16": 4e-2, "float16": 6e-3}
ELEMENT = 12.0
"""One element may be off by this many limits of its own size, or of the root mean square if that is more."""
MAX_FACTOR = 4.0
"""A plugin may widen a limit by this much and no more."""


def require_close(
    context: Context, what: str, found: np.ndarray, expected: np.ndarray, limit: float, on: str
) -> None:
    """Hold `found` to the float64 reference.

    Args:
        what: the thing computed, for example `gradient of x`.
        on: the inputs, for the text of a failure.
    Raises:
        Mismatch: another shape, a number that is not finite, or farther off than the limit.
    """
    limit *= context.factor
    if tuple(found.shape) != tuple(expected.shape):
        raise Mismatch(f"{what} has shape {list(found.shape)}, expected {list(expected.shape)}; on {on}")
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    wrong = ~np.isfinite(found) & np.isfinite(expected)
    if wrong.any():
        raise Mismatch(f"{what} is not finite: {_element(found, expected, wrong)}; on {on}")
    if not found.size:
        return
    finite = np.isfinite(expected)
    difference = np.where(finite, np.abs(np.where(finite, found - expected, 0.0)), 0.0)
    size = np.linalg.norm(expected[finite])
    distance = float(np.linalg.norm(difference) / size) if size else float(np.linalg.norm(difference))
    rms = size / np.sqrt(max(int(finite.sum()), 1))
    scale = np.maximum(np.abs(np.where(finite, expected, 0.0)), rms) if size else np.ones_like(difference)
    elementwise = difference / scale
    context.note_distance(distance, limit)
    if distance > limit or elementwise.max() > ELEMENT * limit:
        worst = elementwise == elementwise.max()
        raise Mismatch(
            f"{what} is off by {distance:.2e} in norm (at most {limit:.2e}), worst at "
            f"{_element(found, expected, worst)}; on {on}"
        )


def require_equal(what: str, found: np.ndarray, expected: np.ndarray, on: str) -> None:
    """Hold whole numbers, booleans and copies to the reference, to the bit."""
    if tuple(found.shape) != tuple(expected.shape):
        raise Mismatch(f"{what} has shape {list(found.shape)}, expected {list(expected.shape)}; on {on}")
    wrong = found != expected
    if found.dtype.kind == "f":
        wrong &= ~(np.isnan(found) & np.isnan(expected))
    if wrong.any():
        count = int(wrong.sum())
        raise Mismatch(
            f"{what} differs in {count} of {found.size} elements, first at "
            f"{_element(found, expected, wrong)}; on {on}"
        )


def _element(found: np.ndarray, expected: np.ndarray, which: np.ndarray) -> str:
    """`[3, 5]: got 1.5, expected 1.25` of the first element that is marked."""
    at = tuple(int(i) for i in np.argwhere(which)[0])
    return f"{list(at)}: got {found[at]:.9g}, expected {expected[at]:.9g}"
