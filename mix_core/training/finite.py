"""Find out where a number stopped being finite: the first parameter, else the first gradient."""

from __future__ import annotations

from typing import Any

import numpy as np


def first_not_finite(parameters: list[tuple[str, Any]]) -> str:
    """Name what is not finite, in the model's order; a parameter comes before the gradients it spoils.

    Args:
        parameters: (published name, parameter with its gradient).
    """
    for kind, values_of in (("parameter", lambda p: p), ("gradient of", lambda p: p.grad)):
        for name, parameter in parameters:
            values = values_of(parameter)
            if values is None:
                continue
            array = values.astype("float32").numpy()
            bad = array.size - int(np.isfinite(array).sum())
            if bad:
                return f"the first {kind} {name} that is not finite has {bad} of {array.size} such values"
    return "parameters and gradients are finite"
