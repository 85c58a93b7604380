"""Sharding: optimizer state (stage 1), gradients too (2), parameters too (3). Arguments: FOLDER STAGE DTYPE.

Stage 1 is fleet's, as a degree of its layout; 2 and 3 are paddle.distributed.sharding.group_sharded_parallel.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import paddle
from fleet_parts import (
    RANKS,
    Block,
    Places,
    adamw,
    batches,
    cast_to,
    innermost,
    main,
    mean_loss,
    numbers,
    own_rows,
    train_alone,
    weights,
)
from paddle import nn
from paddle.distributed import fleet, sharding

STAGE, DTYPE = (sys.argv[2], sys.argv[3]) if len(sys.argv) > 3 else ("1", "float32")
LEVELS = {"2": "os_g", "3": "p_g_os"}


def prepared(model: nn.Layer, optimizer: Any) -> tuple[nn.Layer, Any]:
    if DTYPE != "float32":
        model, optimizer = paddle.amp.decorate(model, optimizer, level="O2", dtype=DTYPE)
    if STAGE == "1":
        return fleet.distributed_model(model), fleet.distributed_optimizer(optimizer)
    # segments small enough that this model's weights are divided at all
    wrapped, sharded, _ = sharding.group_sharded_parallel(
        model, optimizer, level=LEVELS[STAGE], segment_size=64
    )
    return wrapped, sharded


def join() -> None:
    if STAGE == "1":
        strategy = fleet.DistributedStrategy()
        strategy.hybrid_configs = {"dp_degree": 1, "sharding_degree": RANKS}
        fleet.init(is_collective=True, strategy=strategy)
    else:
        paddle.distributed.init_parallel_env()


def last_weights(model: nn.Layer, wrapped: nn.Layer) -> dict[str, np.ndarray]:
    if STAGE == "3":
        wrapped.get_all_parameters()  # gathers what each rank holds a part of
    return {name: numbers(p) for name, p in model.named_parameters()}


def program() -> dict[str, Any]:
    alone = train_alone(DTYPE)
    join()
    model = Block()
    model.set_state_dict(weights())
    wrapped, optimizer = prepared(model, adamw(model.parameters(), multi_precision=DTYPE != "float32"))
    places = Places(fixed=False)
    losses = []
    for step, (ids, labels) in enumerate(batches()):
        with cast_to(DTYPE):
            loss = mean_loss(wrapped(own_rows(ids)), own_rows(labels))
        loss.backward()
        optimizer.step()
        places.look(step, model, optimizer)
        optimizer.clear_grad()
        paddle.distributed.all_reduce(loss)
        losses.append(float(loss) / RANKS)
    inner = innermost(optimizer)
    elements = sum(int(np.prod(t.shape)) for t in inner._accumulators["moment1"].values())
    last = last_weights(model, wrapped)
    moved = {name: alone["weights"][name] - first for name, first in weights().items()}
    apart = {name: last[name].reshape(moved[name].shape) - alone["weights"][name] for name in moved}
    return {
        "losses": losses,
        "alone": alone["losses"],
        "weights": {name: float(np.abs(difference).max()) for name, difference in apart.items()},
        "moved": {name: float(np.linalg.norm(apart[name]) / np.linalg.norm(moved[name])) for name in moved},
        "moment_elements": elements,
        "all_elements": sum(first.size for first in weights().values()),
        "masters": len(inner._master_weights),
        **places.report(),
    }


if __name__ == "__main__":
    main(program)
