"""The device that a loaded model runs on. Importing this module imports no paddle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import mix_core.device as device_layer
from mix_core.errors import BadInputError

if TYPE_CHECKING:
    from mix_core.device import Activation

DTYPES = ("float32", "bfloat16", "float16")


def checked_dtype(dtype: str | None) -> str:
    """The dtype asked for, float32 where none is. Raises BadInputError."""
    if dtype not in (None, *DTYPES):
        raise BadInputError(f"dtype is {dtype!r}, expected one of {', '.join(DTYPES)}")
    return dtype or "float32"


def activate_for(
    model: str,
    dtype: str,
    device: str | None,
    *,
    task: Literal["understanding", "generation"] = "understanding",
    simulate: bool | None = None,
    world_size: int = 1,
    **how: Any,
) -> Activation:
    """Make `device` this process's device for a model's inference.

    `how`: `kernels` and `allow_reexec` of `mix_core.device.activate`. Raises DeviceError, and BadInputError
    where the device does not compute in the dtype.
    """
    workload = device_layer.Workload(
        task=task, model=model, mode="infer", dtype=dtype, world_size=world_size, simulate=bool(simulate)
    )
    activation = device_layer.activate(device, workload=workload, simulate=simulate, **how)
    if not activation.profile.supports_dtype(dtype):
        computes = ", ".join(d for d in DTYPES if activation.profile.supports_dtype(d))
        raise BadInputError(
            f"dtype is {dtype}, but device {activation.name} computes in {computes}; give one of those"
        )
    return activation
