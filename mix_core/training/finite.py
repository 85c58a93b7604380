"""Find out where a number stopped being finite: the first parameter, else the first gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def first_not_finite(parameters: Mapping[str, Any], gradients: Mapping[str, Any]) -> str:
    """Name what is not finite, in the model's order; a parameter comes before the gradients it spoils.

    Args:
        parameters, gradients: tensors by published name; a gradient may be None.
    """
    for kind, tensors in (("parameter", parameters), ("gradient of", gradients)):
        for name, values in tensors.items():
            if values is None:
                continue
            array = values.astype("float32").numpy()
            bad = array.size - int(np.isfinite(array).sum())
            if bad:
                return f"the first {kind} {name} that is not finite has {bad} of {array.size} such values"
    return "parameters and gradients are finite"
