"""What each of two ranks runs: collectives against numpy, then data and tensor parallel. Writes RANK.jsonl.

Started by Paddle's launcher through `mix-core run`: it takes the device from its environment.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

DTYPES = ("float32", "bfloat16", "float16", "int32", "int64")
COLLECTIVES = (
    "all_reduce_sum",
    "all_reduce_max",
    "all_reduce_min",
    "all_reduce_prod",
    "reduce",
    "all_gather",
    "reduce_scatter",
    "broadcast",
    "alltoall",
    "send_recv",
)
OTHERS = {
    "large": "an all_reduce of 5 million numbers gives numpy's",
    "repeated": "50 all_reduces in a row give numpy's numbers",
    "both_ways": "8 MiB each way at once arrive whole",
    "barrier": "barrier returns on both ranks",
    "order": "an all_reduce sees the kernel before it, and a kernel sees the all_reduce",
}
COUNT = 10
RANKS = 2
LONG = 2 << 20


def main(folder: Path) -> None:
    import mix_core.device as device

    active = device.activate()
    import paddle.distributed as dist

    dist.init_parallel_env()
    rank = dist.get_rank()
    path = folder / f"{rank}.jsonl"
    refused = active.profile.collective.dtypes_refused if active.profile.collective else frozenset()
    for key, run in _program(rank, refused, active):
        try:
            said = run()
        except Exception as error:  # noqa: BLE001 (told to the suite)
            said = f"{type(error).__name__}: {' '.join(str(error).split())[-300:]}"
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({key: said or ""}) + "\n")


def _program(
    rank: int, refused: frozenset[str], active: Any
) -> Iterator[tuple[str, Callable[[], str | None]]]:
    from mix_core.conformance.tiny_runs import divided_families, tiny_families

    dtypes = [
        d for d in DTYPES if d not in refused and (d.startswith("int") or active.profile.supports_dtype(d))
    ]
    for name in COLLECTIVES:
        for dtype in dtypes:
            yield f"{name} {dtype}", lambda name=name, dtype=dtype: _collective(name, dtype, rank)
    yield "large", lambda: _large(rank)
    yield "repeated", lambda: _repeated(rank)
    yield "both_ways", lambda: _both_ways(rank)
    yield "barrier", _barrier
    yield "order", lambda: _order(rank)
    for family in tiny_families():
        yield f"{family} gradients", lambda family=family: _gradients(family, rank)
        yield f"{family} step", lambda family=family: _step(family, rank)
        yield f"{family} pipeline", lambda family=family: _pipeline(family, rank)
    for family in divided_families():
        yield f"{family} tensor", lambda family=family: _tensor(family, rank)


def _numbers() -> np.ndarray:
    """Small whole numbers of each rank, (RANKS, COUNT); their sums and products are exact in every dtype."""
    return np.stack([np.random.default_rng(r).integers(1, 9, COUNT) for r in range(RANKS)]).astype(np.float32)


def _differs(found: Any, wanted: np.ndarray, what: str) -> str | None:
    import paddle

    found = paddle.stack(found) if isinstance(found, list) else found
    place = str(paddle.framework._current_expected_place())
    if str(found.place) != place:
        return f"{what} lies on {found.place}, expected {place}"
    values = found.astype("float32").numpy()
    if values.shape != wanted.shape:
        return f"{what} has shape {list(values.shape)}, expected {list(wanted.shape)}"
    wrong = np.argwhere(values != wanted)
    if len(wrong):
        at = tuple(int(i) for i in wrong[0])
        first = f"{list(at)}: got {values[at]}, expected {wanted[at]}"
        return f"{what} differs in {len(wrong)} elements, first at {first}"
    return None


def _collective(name: str, dtype: str, rank: int) -> str | None:
    import paddle
    import paddle.distributed as dist

    whole, peer = _numbers(), 1 - rank
    own = paddle.to_tensor(whole[rank]).astype(dtype)
    what = f"{name} of {whole[rank].astype(int).tolist()} and {whole[peer].astype(int).tolist()} in {dtype}"
    if name.startswith("all_reduce"):
        kind = name.removeprefix("all_reduce_")
        right: Any = {"sum": np.sum, "max": np.max, "min": np.min, "prod": np.prod}[kind]
        dist.all_reduce(own, op=getattr(dist.ReduceOp, kind.upper()))
        return _differs(own, right(whole, axis=0), what)
    if name == "reduce":
        dist.reduce(own, dst=1)
        return _differs(own, whole.sum(0), what) if rank == 1 else None
    if name == "broadcast":
        dist.broadcast(own, src=1)
        return _differs(own, whole[1], what)
    if name == "all_gather":
        parts: list[Any] = []
        dist.all_gather(parts, own)
        return _differs(parts, whole, what)
    if name == "reduce_scatter":
        out = paddle.zeros([COUNT // RANKS]).astype(dtype)
        dist.reduce_scatter(out, list(paddle.split(own, RANKS)))
        return _differs(out, np.split(whole.sum(0), RANKS)[rank], what)
    if name == "alltoall":
        received: list[Any] = []
        dist.alltoall(received, list(paddle.split(own, RANKS)))
        return _differs(received, np.stack([np.split(row, RANKS)[rank] for row in whole]), what)
    there = paddle.zeros([COUNT]).astype(dtype)
    for sender in (0, 1):
        if rank == sender:
            dist.send(own, dst=peer)
        else:
            dist.recv(there, src=sender)
    return _differs(there, whole[peer], what)


def _large(rank: int) -> str | None:
    import paddle
    import paddle.distributed as dist

    n = 5_000_000
    x = paddle.arange(n, dtype="float32") % 1000.0 + rank
    dist.all_reduce(x)
    return _differs(x, (2.0 * (np.arange(n) % 1000) + 1.0).astype(np.float32), f"the sum of {n} numbers")


def _repeated(rank: int) -> str | None:
    import paddle
    import paddle.distributed as dist

    for i in range(50):
        x = paddle.full([1 + 37 * i], float(i + rank))
        dist.all_reduce(x)
        said = _differs(x, np.full(1 + 37 * i, 2.0 * i + 1.0, np.float32), f"all_reduce {i}")
        if said:
            return said
    return None


def _both_ways(rank: int) -> str | None:
    import paddle
    import paddle.distributed as dist

    peer = 1 - rank
    there, here = paddle.zeros([LONG]), paddle.arange(LONG).astype("float32") + float(rank)
    operations = [dist.P2POp(dist.isend, here, peer), dist.P2POp(dist.irecv, there, peer)]
    for task in dist.batch_isend_irecv(operations):
        task.wait()
    return _differs(there, np.arange(LONG, dtype=np.float32) + peer, "what the peer sent")


def _barrier() -> None:
    import paddle.distributed as dist

    dist.barrier()


def _order(rank: int) -> str | None:
    import paddle
    import paddle.distributed as dist

    for i in range(10):
        x = paddle.full([1 << 16], float(rank)) * 2.0 + float(i)
        dist.all_reduce(x)
        said = _differs(
            x + 1.0, np.full(1 << 16, 2.0 * i + 3.0, np.float32), f"round {i}: a sum between two kernels"
        )
        if said:
            return said
    return None


def _own_labels(batch: dict[str, np.ndarray], rank: int) -> dict[str, np.ndarray]:
    """The batch with the labels of this rank's rows alone: whatever a family's rows carry stays whole."""
    labels = batch["labels"].copy()
    labels[1 - rank :: RANKS] = -100
    return batch | {"labels": labels}


def _summed(family: str, rank: int) -> tuple[Any, dict[str, np.ndarray]]:
    """The model with gradients of the whole batch's mean loss, each rank having done its rows."""
    import paddle.distributed as dist

    from mix_core.conformance.tiny_runs import built

    model, batch = built(family)
    model.train()
    loss, _ = model.loss(_own_labels(batch, rank))
    loss.backward()
    for parameter in model.parameters():
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
    return model, batch


def _gradients(family: str, rank: int) -> str | None:
    from mix_core.conformance.tiny_runs import built

    model, batch = _summed(family, rank)
    whole, _ = built(family)
    whole.train()
    whole.loss(batch)[0].backward()
    return _off(
        (name, one.grad.numpy(), other.grad.numpy())
        for (name, one), other in zip(model.named_parameters(), whole.parameters())
        if other.grad is not None
    )


def _pipeline(family: str, rank: int) -> str | None:
    """Each rank has a stage of the model; two passes go through both, one with each row's labels."""
    from contextlib import nullcontext

    from mix_core.conformance.tiny_runs import built
    from mix_core.device.ranks import Job
    from mix_core.training.groups import Groups
    from mix_core.training.layout import Layout
    from mix_core.training.optimizer import AdamW
    from mix_core.training.pipeline.engine import Pipeline
    from mix_core.training.pipeline.split import pieces_of_counts
    from mix_core.training.pipeline.stage import Stage

    model, batch = built(family)
    model.train()
    blocks, layers = model.cuts.count(name for name, _ in model.named_parameters())
    pieces = pieces_of_counts([blocks, 0], [layers - 1, 1])
    stage = Stage(model, pieces, Groups(Layout(RANKS, pipeline=RANKS), Job(rank, RANKS)))
    optimizer = AdamW(model, stage=stage)
    stage.release()
    passes = [_own_labels(batch, row) for row in range(RANKS)]
    Pipeline(stage, nullcontext).run(passes, 1.0, lambda _: None)
    if stage.tied is not None:
        stage.sum_tied(optimizer.ensure_summed(stage.tied))
    whole, _ = built(family)
    whole.train()
    whole.loss(batch)[0].backward()
    wanted = {name: one.grad for name, one in whole.named_parameters() if one.grad is not None}
    gradients = {name: one for name, one in optimizer.gradients().items() if name in wanted}
    lacking = [name for name, one in gradients.items() if one is None]
    if lacking:
        return f"{lacking[0]} has no gradient on its stage"
    return _off((name, one.numpy(), wanted[name].numpy()) for name, one in gradients.items())


def _off(found_and_wanted: Iterable[tuple[str, np.ndarray, np.ndarray]]) -> str | None:
    """The first gradient that is not what it should be."""
    pairs = list(found_and_wanted)
    of_all = float(np.sqrt(sum(np.square(wanted, dtype=np.float64).sum() for _, _, wanted in pairs)))
    for name, found, wanted in pairs:
        scale = float(np.linalg.norm(wanted))
        if scale < 1e-6 * of_all:  # a key's bias: it drops out of the softmax, what is left is rounding
            scale = 1e-2 * of_all
        distance = float(np.linalg.norm(found - wanted)) / scale
        if not distance < 1e-4:
            return (
                f"the gradient of {name} is off by {distance:.2e} from that of the whole batch, at most 1e-4"
            )
    return None


def _tensor(family: str, rank: int) -> str | None:
    from mix_core.conformance.tiny_runs import built
    from mix_core.models.common.parts import held_box
    from mix_core.models.parallel.across import Across
    from mix_core.models.parallel.tensor import divide_model
    from mix_core.models.registry import get_family

    losses, models = [], []
    for divided in (False, True):
        model, batch = built(family, kv_heads=RANKS)
        if divided:
            divide_model(model, get_family(family).tensor_plan or {}, Across(rank, RANKS, None))
        model.train()
        loss, _ = model.loss(batch)
        loss.backward()
        losses.append(float(loss))
        models.append(model)
    whole, shared = models
    if not abs(losses[1] - losses[0]) <= 1e-5 * abs(losses[0]):
        return f"the loss is {losses[1]:.7g}, that of the whole model {losses[0]:.7g}, at most 1e-5 apart"
    return _off(
        (name, one.grad.numpy(), other.grad.numpy()[held_box(one).slices])
        for (name, one), other in zip(shared.named_parameters(), whole.parameters())
        if other.grad is not None
    )


def _step(family: str, rank: int) -> str | None:
    import paddle
    import paddle.distributed as dist

    from mix_core.training.optimizer import AdamW

    model, _ = _summed(family, rank)
    AdamW(model).step(1e-3, grad_scale=0.1)
    for name, parameter in model.named_parameters():
        parts: list[Any] = []
        dist.all_gather(parts, parameter.detach())
        if not bool(paddle.equal_all(parts[0], parts[1])):
            return f"{name} differs between the ranks after one update"
    return None


if __name__ == "__main__":
    sys.path[:] = [part for part in sys.path if part != os.path.dirname(os.path.abspath(__file__))]
    main(Path(sys.argv[1]))
