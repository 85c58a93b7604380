"""The operators a device may replace (docs/operators.md), each with a usual request, for `mix-core doctor`.

H head dim: 128 of a decoder, 80 of a vision tower.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mix_core.device.values import Kernel, KernelRequest

if TYPE_CHECKING:
    from mix_core.device.activation import Activation

_TRAINING = KernelRequest("", training=True)
USUAL_REQUESTS = {
    "adamw": _TRAINING,
    "adapted_linear": _TRAINING,
    "adapted_mlp": _TRAINING,
    "add_rms_norm": _TRAINING,
    "attention": KernelRequest("", head_dim=128, causal=True, training=True),
    "attention_decode": KernelRequest("", head_dim=128, causal=True),
    "attention_packed": KernelRequest("", head_dim=80, packed=True, training=True),
    "conv2d": _TRAINING,
    "decode_layers": KernelRequest("", head_dim=128, causal=True),
    "decode_layers_int8": KernelRequest("", head_dim=128, causal=True),
    "gated_mlp": _TRAINING,
    "geglu": _TRAINING,
    "gelu": KernelRequest("", training=True, size_class="erf"),
    "group_norm": _TRAINING,
    "head_logits": KernelRequest(""),
    "layer_norm": _TRAINING,
    "linear": _TRAINING,
    "linear_cross_entropy": _TRAINING,
    "linear_int8": KernelRequest(""),
    "qkv": _TRAINING,
    "rms_norm": _TRAINING,
    "rotary": KernelRequest("", head_dim=128, training=True),
    "sampling": KernelRequest(""),
    "swiglu": _TRAINING,
}
DTYPES = ("float32", "bfloat16", "float16")


def implementations(activation: Activation) -> Iterator[dict[str, Any]]:
    """What serves the usual request of each operator, in each dtype that the device declares, and why."""
    dtypes = [dtype for dtype in DTYPES if activation.profile.supports_dtype(dtype, "default")]
    for op, request in USUAL_REQUESTS.items():
        for dtype in dtypes:
            found = activation.serving(op, dataclasses.replace(request, dtype=dtype))
            name = found.name if isinstance(found, Kernel) else "reference"
            yield {"operator": op, "dtype": dtype, "runs": name, "reason": found.reason}
