"""Data parallel by fleet: each rank has its rows of the batch."""

from __future__ import annotations

import hashlib
from typing import Any

import paddle
from fleet_parts import (
    RANKS,
    Block,
    Places,
    adamw,
    batches,
    distance,
    main,
    mean_loss,
    numbers,
    own_rows,
    train_alone,
    weights,
)
from paddle.distributed import fleet


def program() -> dict[str, Any]:
    alone = train_alone()
    strategy = fleet.DistributedStrategy()
    strategy.hybrid_configs = {"dp_degree": paddle.distributed.get_world_size()}
    fleet.init(is_collective=True, strategy=strategy)
    model = Block()
    if paddle.distributed.get_rank() == 0:
        model.set_state_dict(weights())  # the others get them when fleet wraps the model
    optimizer = fleet.distributed_optimizer(adamw(model.parameters()))
    wrapped = fleet.distributed_model(model)
    places = Places()
    losses, gradients = [], {}
    for step, (ids, labels) in enumerate(batches()):
        loss = mean_loss(wrapped(own_rows(ids)), own_rows(labels))
        loss.backward()
        gradients = gradients or {name: numbers(p.grad) for name, p in model.named_parameters()}
        optimizer.step()
        places.look(step, model, optimizer)
        optimizer.clear_grad()
        paddle.distributed.all_reduce(loss)
        losses.append(float(loss) / RANKS)
    last = {name: numbers(p) for name, p in model.named_parameters()}
    return {
        "losses": losses,
        "alone": alone["losses"],
        "gradients": {name: distance(gradients[name], alone["gradients"][name]) for name in gradients},
        "weights": {name: distance(last[name], alone["weights"][name]) for name in last},
        "gradient_bits": {n: hashlib.sha256(g.tobytes()).hexdigest() for n, g in gradients.items()},
        **places.report(),
    }


if __name__ == "__main__":
    main(program)
