"""Every collective of paddle.distributed between two ranks, against numpy, by dtype."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist
from fleet_parts import RANK, RANKS, main

DTYPES = ("float32", "float16", "bfloat16", "int32")
COUNT = 10
OPERATIONS = {
    "sum": (dist.ReduceOp.SUM, np.sum),
    "max": (dist.ReduceOp.MAX, np.max),
    "min": (dist.ReduceOp.MIN, np.min),
    "prod": (dist.ReduceOp.PROD, np.prod),
}
PEER = 1 - RANK
LONG = 2 << 20
"""Elements of 4 bytes: 8 MiB."""


def numbers_of(rank: int) -> np.ndarray:
    """Small whole numbers, exact in every dtype and so are their sums and products."""
    return np.random.default_rng(rank).integers(1, 9, COUNT).astype(np.float32)


ALL = np.stack([numbers_of(rank) for rank in range(RANKS)])


def own(dtype: str) -> paddle.Tensor:
    return paddle.to_tensor(numbers_of(RANK)).astype(dtype)


def empty(dtype: str, count: int = COUNT) -> paddle.Tensor:
    return paddle.zeros([count]).astype(dtype)


def compared(found: paddle.Tensor | list[paddle.Tensor], wanted: np.ndarray) -> dict[str, Any]:
    found = paddle.stack(found) if isinstance(found, list) else found
    values = found.astype("float32").numpy()
    assert values.shape == wanted.shape, f"{values.shape} is not {wanted.shape}"
    return {"distance": float(np.abs(values - wanted).max()), "place": str(found.place)}


def all_reduce(dtype: str, name: str) -> dict[str, Any]:
    operation, right = OPERATIONS[name]
    x = own(dtype)
    dist.all_reduce(x, op=operation)
    return compared(x, right(ALL, axis=0))


def average() -> list[str]:
    """What Paddle answers where the mean is asked of a custom device, by both of its ways."""
    answers = []
    for collective in (dist.all_reduce, dist.stream.all_reduce):
        try:
            collective(own("float32"), op=dist.ReduceOp.AVG)
            answers.append("done")
        except (AttributeError, ValueError) as error:
            answers.append(str(error))
    return answers


def reduce(dtype: str) -> dict[str, Any]:
    x = own(dtype)
    dist.reduce(x, dst=1)
    return compared(x, ALL.sum(0)) if RANK == 1 else {"distance": 0.0, "place": str(x.place)}


def all_gather(dtype: str) -> dict[str, Any]:
    parts: list[paddle.Tensor] = []
    dist.all_gather(parts, own(dtype))
    return compared(parts, ALL)


def reduce_scatter(dtype: str) -> dict[str, Any]:
    out = empty(dtype, COUNT // RANKS)
    dist.reduce_scatter(out, list(paddle.split(own(dtype), RANKS)))
    return compared(out, np.split(ALL.sum(0), RANKS)[RANK])


def broadcast(dtype: str) -> dict[str, Any]:
    x = own(dtype)
    dist.broadcast(x, src=1)
    return compared(x, ALL[1])


def alltoall(dtype: str) -> dict[str, Any]:
    received: list[paddle.Tensor] = []
    dist.alltoall(received, list(paddle.split(own(dtype), RANKS)))
    return compared(received, np.stack([np.split(row, RANKS)[RANK] for row in ALL]))


def send_recv(dtype: str) -> dict[str, Any]:
    there = empty(dtype)
    if RANK == 0:
        dist.send(own(dtype), dst=1)
        dist.recv(there, src=1)
    else:
        dist.recv(there, src=0)
        dist.send(own(dtype), dst=0)
    return compared(there, ALL[PEER])


def both_ways_at_once() -> dict[str, Any]:
    """8 MiB each way, started together on both ranks: no side may wait for the other to read first."""
    there = paddle.zeros([LONG])
    here = paddle.arange(LONG).astype("float32") + RANK
    operations = [dist.P2POp(dist.isend, here, PEER), dist.P2POp(dist.irecv, there, PEER)]
    for task in dist.batch_isend_irecv(operations):
        task.wait()
    return compared(there, np.arange(LONG, dtype=np.float32) + PEER)


def barrier() -> dict[str, Any]:
    dist.barrier()
    return {"distance": 0.0, "place": paddle.get_device()}


def int64(collective: Callable[..., Any]) -> dict[str, Any]:
    """The sum of int64 that some chips' collectives do not have -> the error, or the difference."""
    x = own("int64")
    try:
        collective(x)
    except OSError as error:
        return {"refused": str(error)}
    return compared(x, ALL.sum(0))


def program() -> dict[str, Any]:
    dist.init_parallel_env()
    seen = {}
    for dtype in DTYPES:
        for name in OPERATIONS:
            seen[f"all_reduce {name} {dtype}"] = all_reduce(dtype, name)
        for case in (reduce, all_gather, reduce_scatter, broadcast, alltoall, send_recv):
            seen[f"{case.__name__} {dtype}"] = case(dtype)
    seen["both ways at once"] = both_ways_at_once()
    seen["barrier"] = barrier()
    for case in (all_gather, broadcast, send_recv):
        seen[f"{case.__name__} int64"] = case("int64")
    return {
        "cases": seen,
        "average": average(),
        "int64": int64(dist.all_reduce),
        "after": all_reduce("float32", "sum"),
    }


if __name__ == "__main__":
    main(program)
