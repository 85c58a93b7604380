"""paddle.distributed's checkpoint: two ranks of tensor parallel save, one process loads. Argument: FOLDER.

The two ranks write `saved`, each its parts of weights, moments and counters; the one process loads them into
a whole model. What is right is known: a step from known weights on known gradients.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import paddle
from fleet_parts import RANKS, Block, Places, adamw, distance, main, numbers, weights
from fleet_tensor import Cut, part
from paddle.distributed import fleet, load_state_dict, save_state_dict

SAVED = str(Path(sys.argv[1], "saved"))


def stepped(model: paddle.nn.Layer, cut: bool, scale: float) -> Any:
    """The optimizer after one step on gradients made of the weights, so that its moments are no zeros."""
    first = {name: whole * scale for name, whole in weights().items()}
    model.set_state_dict({name: part(name, whole) if cut else whole for name, whole in first.items()})
    optimizer = adamw(model.parameters())
    for p in model.parameters():
        p.grad = p.detach() * 0.5
    optimizer.step()
    optimizer.clear_grad()
    return optimizer


def state_of(model: paddle.nn.Layer, optimizer: Any) -> dict[str, Any]:
    of_model = model.sharded_state_dict()
    return {**of_model, **optimizer.sharded_state_dict(of_model)}


def save() -> dict[str, Any]:
    strategy = fleet.DistributedStrategy()
    strategy.hybrid_configs = {"dp_degree": 1, "mp_degree": RANKS}
    fleet.init(is_collective=True, strategy=strategy)
    model = Cut()
    optimizer = stepped(model, cut=True, scale=1.0)
    state = state_of(model, optimizer)
    save_state_dict(state, SAVED)
    return {"names": sorted(state)}


def load() -> dict[str, Any]:
    right = Block()
    wanted = state_of(right, stepped(right, cut=False, scale=1.0))
    model = Block()
    optimizer = stepped(model, cut=False, scale=3.0)
    state = state_of(model, optimizer)
    before = {
        name: distance(numbers(state[name].local_tensor), numbers(wanted[name].local_tensor))
        for name in state
    }
    places = Places()
    places.look(0, model, optimizer)
    load_state_dict(state, SAVED)
    places.look(1, model, optimizer)
    loaded = state_of(model, optimizer)
    after = {
        name: distance(numbers(loaded[name].local_tensor), numbers(wanted[name].local_tensor))
        for name in state
    }
    return {"names": sorted(state), "before": before, "after": after, **places.report()}


if __name__ == "__main__":
    main(save if RANKS > 1 else load)
