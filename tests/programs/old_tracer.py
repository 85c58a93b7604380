"""The operators that Paddle's distributed code still calls through the old tracer, each against numpy.

What the old tracer runs on the CPU for a device stays on the CPU, its inputs too; the next collective then
fails or a parameter has moved. Arguments: FOLDER DTYPE. Written: by operator the largest difference and where
its tensors are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import paddle
from fleet_parts import main
from paddle import _legacy_C_ops
from paddle.distributed.fleet.layers.mpu import random
from paddle.distributed.parallel import _reshape_inplace

DTYPE = sys.argv[2]
draw = np.random.default_rng(0)
Case = Callable[[], tuple[list[paddle.Tensor], list[np.ndarray]]]
"""-> the tensors that must be on the device, and of the first of them the right values."""


def tensor(*shape: int) -> paddle.Tensor:
    return paddle.to_tensor(draw.standard_normal(shape).astype(np.float32)).astype(DTYPE)


def values(x: paddle.Tensor) -> np.ndarray:
    return x.astype("float32").numpy()


def split():
    """sync_params_buffers gives the broadcast weights back to the parameters so."""
    x, parts = tensor(10), [tensor(4), tensor(6)]
    wanted = np.split(values(x), [4])
    paddle.framework._dygraph_tracer().trace_op(
        type="split", inputs={"X": x}, outputs={"Out": parts}, attrs={"sections": [4, 6], "axis": 0}
    )
    return [*parts, x], wanted


def split_gradients():
    """_split_tensors gives reduced gradients back so."""
    x, parts = tensor(10), [tensor(4), tensor(6)]
    wanted = np.split(values(x), [4])
    _legacy_C_ops.split(x, parts, "sections", [4, 6], "axis", 0)
    return [*parts, x], wanted


def elementwise_div():
    """fused_allreduce_gradients divides by the number of ranks so."""
    x, count = tensor(3, 4), paddle.to_tensor(2.0, dtype=DTYPE)
    wanted = values(x) / 2
    paddle.framework._dygraph_tracer().trace_op(
        type="elementwise_div", inputs={"X": x, "Y": count}, outputs={"Out": x}, attrs={"axis": -1}
    )
    return [x, count], [wanted]


def reshape2():
    x = tensor(3, 4)
    wanted = values(x).reshape(2, 6)
    _reshape_inplace(x, [2, 6])
    return [x], [wanted]


def check_finite_and_unscale():
    """The gradient scalers of fleet and of sharding."""
    gradients, scale, found = [tensor(5), tensor(2, 3)], paddle.to_tensor([4.0]), paddle.to_tensor([False])
    wanted = [values(g) / 4 for g in gradients]
    _legacy_C_ops.check_finite_and_unscale(gradients, scale, gradients, found)
    assert not bool(found)
    return [*gradients, found, scale], wanted


def check_finite_and_unscale_finds_infinity():
    gradients, found = [tensor(5)], paddle.to_tensor([False])
    gradients[0][3] = float("inf")
    _legacy_C_ops.check_finite_and_unscale(gradients, paddle.to_tensor([4.0]), gradients, found)
    return [found, *gradients], [np.array([1.0], np.float32)]


def dropout():
    """Dropout with a random state of its own name in tensor parallel layers; nothing is dropped here."""
    random.get_rng_state_tracker().add("tensor_parallel", 7)
    x = tensor(3, 4)
    out = random.dropout(x, p=paddle.to_tensor(0.0), rng_name="tensor_parallel")
    return [out, x], [values(x)]


def measured(case: Case) -> dict[str, object]:
    try:
        tensors, wanted = case()
    except Exception as error:
        text = [line for line in str(error).splitlines() if line.strip()]
        return {"error": f"{type(error).__name__}: {' '.join(text[-3:])}"}
    places = [str(one.place) for one in tensors]
    distance = max(float(np.abs(values(found) - right).max()) for found, right in zip(tensors, wanted))
    return {"distance": distance, "places": places}


def c_identity():
    """Tensor parallel layers that overlap their all_reduce."""
    x = tensor(3, 4)
    out = _legacy_C_ops.c_identity(x, "use_calc_stream", True, "ring_id", 0, "use_model_parallel", True)
    return [out, x], [values(x)]


cases: list[Case] = [
    split, split_gradients, elementwise_div, reshape2, check_finite_and_unscale,
    check_finite_and_unscale_finds_infinity, dropout, c_identity,
]  # fmt: skip

if __name__ == "__main__":
    main(lambda: {case.__name__: measured(case) for case in cases})
