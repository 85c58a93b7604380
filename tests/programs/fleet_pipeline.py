"""Pipeline parallel by fleet: two stages, one forward and one backward in turn, micro-batches of two rows."""

from __future__ import annotations

from typing import Any

import paddle
from fleet_parts import (
    RANK,
    RANKS,
    B,
    D,
    F,
    Places,
    V,
    adamw,
    batches,
    distance,
    main,
    mean_loss,
    numbers,
    train_alone,
    weights,
)
from paddle import nn
from paddle.distributed import fleet
from paddle.distributed.fleet import meta_parallel as parallel

MICRO_ROWS = 2


class FeedForward(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(D, F)
        self.down = nn.Linear(F, D)

    def forward(self, hidden_BSD: paddle.Tensor) -> paddle.Tensor:
        return hidden_BSD + self.down(nn.functional.gelu(self.up(hidden_BSD)))


def staged(topology: Any) -> parallel.PipelineLayer:
    """fleet_parts.Block as a list of layers that fleet divides among the ranks."""
    layers = [
        parallel.LayerDesc(nn.Embedding, V, D),
        parallel.LayerDesc(FeedForward),
        parallel.LayerDesc(nn.LayerNorm, D),
        parallel.LayerDesc(nn.Linear, D, V),
    ]
    return parallel.PipelineLayer(layers, num_stages=RANKS, topology=topology, loss_fn=mean_loss)


def whole_names(model: nn.Layer) -> dict[str, str]:
    """Names of this stage's weights -> names of Block's."""
    of_layer = {"0": "embedding", "1": "", "2": "norm", "3": "head"}
    names = {}
    for name, _ in model.named_parameters():
        number, _, rest = name.partition(".")
        names[name] = f"{of_layer[number]}.{rest}".lstrip(".")
    return names


def program() -> dict[str, Any]:
    alone = train_alone()
    strategy = fleet.DistributedStrategy()
    strategy.hybrid_configs = {"dp_degree": 1, "mp_degree": 1, "pp_degree": RANKS}
    # before fleet.init, which copies them
    strategy.pipeline_configs = {"accumulate_steps": B // MICRO_ROWS, "micro_batch_size": MICRO_ROWS}
    fleet.init(is_collective=True, strategy=strategy)
    model = staged(fleet.get_hybrid_communicate_group().topology())
    names = whole_names(model)
    first = weights()
    model.set_state_dict({name: first[whole] for name, whole in names.items()})
    optimizer = fleet.distributed_optimizer(adamw(model.parameters()))
    wrapped = fleet.distributed_model(model)
    places = Places()
    losses, gradients = [], {}
    for step, (ids, labels) in enumerate(batches()):
        loss = wrapped.forward_backward_pipeline([paddle.to_tensor(ids), paddle.to_tensor(labels)])
        gradients = gradients or {name: numbers(p.grad) for name, p in model.named_parameters()}
        optimizer.step()
        places.look(step, model, optimizer)
        optimizer.clear_grad()
        losses.append(float(loss.reshape([])))
    last = {name: numbers(p) for name, p in model.named_parameters()}
    return {
        "losses": losses,
        "alone": alone["losses"],
        "gradients": {names[n]: distance(gradients[n], alone["gradients"][names[n]]) for n in names},
        "weights": {names[n]: distance(last[n], alone["weights"][names[n]]) for n in names},
        "stage": RANK,
        **places.report(),
    }


if __name__ == "__main__":
    main(program)
