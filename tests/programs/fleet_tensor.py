"""Tensor parallel by fleet's layers: each rank holds its part of embedding, up, down and head."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import paddle
from fleet_parts import (
    RANK,
    RANKS,
    D,
    F,
    Places,
    V,
    adamw,
    batches,
    distance,
    main,
    numbers,
    train_alone,
    weights,
)
from paddle import nn
from paddle.distributed import fleet
from paddle.distributed.fleet import meta_parallel as parallel

AXES = {
    "embedding.weight": 0,
    "up.weight": 1,
    "up.bias": 0,
    "down.weight": 0,
    "head.weight": 1,
    "head.bias": 0,
}
"""The axis along which a weight is cut; the others are whole on every rank."""


class Cut(nn.Layer):
    """fleet_parts.Block with its products cut in two; the head's logits stay cut for the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = parallel.VocabParallelEmbedding(V, D)
        self.up = parallel.ColumnParallelLinear(D, F, has_bias=True, gather_output=False)
        self.down = parallel.RowParallelLinear(F, D, has_bias=True, input_is_parallel=True)
        self.norm = nn.LayerNorm(D)
        self.head = parallel.ColumnParallelLinear(D, V, has_bias=True, gather_output=False)
        self.loss = parallel.ParallelCrossEntropy()

    def forward(self, ids_BS: paddle.Tensor, labels_BS: paddle.Tensor) -> paddle.Tensor:
        hidden_BSD = self.embedding(ids_BS)
        hidden_BSD = hidden_BSD + self.down(nn.functional.gelu(self.up(hidden_BSD)))
        return self.loss(self.head(self.norm(hidden_BSD)), labels_BS.unsqueeze(-1)).mean()


def part(name: str, whole: np.ndarray) -> np.ndarray:
    return np.split(whole, RANKS, AXES[name])[RANK] if name in AXES else whole


def program() -> dict[str, Any]:
    alone = train_alone()
    strategy = fleet.DistributedStrategy()
    strategy.hybrid_configs = {"dp_degree": 1, "mp_degree": RANKS}
    strategy.hybrid_configs["mp_configs"].mp_async_allreduce = "async" in sys.argv[2:]
    fleet.init(is_collective=True, strategy=strategy)
    model = Cut()
    model.set_state_dict({name: part(name, whole) for name, whole in weights().items()})
    optimizer = fleet.distributed_optimizer(adamw(model.parameters()))
    wrapped = fleet.distributed_model(model)
    places = Places()
    losses, gradients = [], {}
    for step, (ids, labels) in enumerate(batches()):
        loss = wrapped(paddle.to_tensor(ids), paddle.to_tensor(labels))
        loss.backward()
        gradients = gradients or {name: numbers(p.grad) for name, p in model.named_parameters()}
        optimizer.step()
        places.look(step, model, optimizer)
        optimizer.clear_grad()
        losses.append(float(loss))
    last = {name: numbers(p) for name, p in model.named_parameters()}
    return {
        "losses": losses,
        "alone": alone["losses"],
        "gradients": {n: distance(gradients[n], part(n, alone["gradients"][n])) for n in gradients},
        "weights": {n: distance(last[n], part(n, alone["weights"][n])) for n in last},
        **places.report(),
    }


if __name__ == "__main__":
    main(program)
