"""What the fleet programs share: a small model, its training in one process, and where the state lies.

The programs are plain Paddle and know nothing of mix-core. Each rank writes what it saw to RANK.json in the
folder that is the program's argument.

Shapes: B batch, S sequence, D model dim, F feed-forward width, V vocabulary.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn

B, S, D, F, V = 8, 6, 16, 32, 24
STEPS = 3
LEARNING_RATE = 1e-2

HOST_NUMBERS = ("beta1_pow_acc", "beta2_pow_acc")
"""Accumulators of one number that Paddle makes on the CPU whatever the device."""

RANK = int(os.environ.get("PADDLE_TRAINER_ID", "0"))
RANKS = int(os.environ.get("PADDLE_TRAINERS_NUM", "1"))


class Block(nn.Layer):
    """Embedding, a gelu of width F, normalisation and a head; the parts that a layout may cut."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(V, D)
        self.up = nn.Linear(D, F)
        self.down = nn.Linear(F, D)
        self.norm = nn.LayerNorm(D)
        self.head = nn.Linear(D, V)

    def forward(self, ids_BS: paddle.Tensor) -> paddle.Tensor:
        hidden_BSD = self.embedding(ids_BS)
        hidden_BSD = hidden_BSD + self.down(nn.functional.gelu(self.up(hidden_BSD)))
        return self.head(self.norm(hidden_BSD))


def weights() -> dict[str, np.ndarray]:
    """The same first weights everywhere, drawn by numpy."""
    draw = np.random.default_rng(0)
    shapes = {
        "embedding.weight": (V, D),
        "up.weight": (D, F),
        "up.bias": (F,),
        "down.weight": (F, D),
        "down.bias": (D,),
        "norm.bias": (D,),
        "head.weight": (D, V),
        "head.bias": (V,),
    }
    drawn = {name: (0.3 * draw.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}
    return {**drawn, "norm.weight": np.ones(D, np.float32)}


def batches() -> list[tuple[np.ndarray, np.ndarray]]:
    """Ids and labels (B, S) of each step."""
    draw = np.random.default_rng(1)
    return [(draw.integers(0, V, (B, S)), draw.integers(0, V, (B, S))) for _ in range(STEPS)]


def own_rows(array: np.ndarray) -> paddle.Tensor:
    """The rows of this rank, where the batch is divided among all ranks."""
    return paddle.to_tensor(np.split(array, RANKS)[RANK])


def mean_loss(logits_BSV: paddle.Tensor, labels_BS: paddle.Tensor) -> paddle.Tensor:
    return nn.functional.cross_entropy(logits_BSV.astype("float32"), labels_BS)


def adamw(parameters: list[paddle.Tensor], **options: Any) -> paddle.optimizer.Optimizer:
    return paddle.optimizer.AdamW(LEARNING_RATE, parameters=parameters, weight_decay=0.01, **options)


def cast_to(dtype: str) -> AbstractContextManager[None]:
    return nullcontext() if dtype == "float32" else paddle.amp.auto_cast(level="O2", dtype=dtype)


def train_alone(dtype: str = "float32") -> dict[str, Any]:
    """One process, the whole batch -> losses, and by name the first gradients and the last weights (float32).

    float32 runs on the CPU; bfloat16, for which Paddle's CPU build has no arithmetic, on the device.
    """
    device = paddle.get_device()
    paddle.set_device("cpu" if dtype == "float32" else device)
    model = Block()
    model.set_state_dict(weights())
    optimizer = adamw(model.parameters())
    if dtype != "float32":
        model, optimizer = paddle.amp.decorate(model, optimizer, level="O2", dtype=dtype)
    losses, gradients = [], {}
    for ids, labels in batches():
        with cast_to(dtype):
            loss = mean_loss(model(paddle.to_tensor(ids)), paddle.to_tensor(labels))
        loss.backward()
        gradients = gradients or {name: numbers(p.grad) for name, p in model.named_parameters()}
        optimizer.step()
        optimizer.clear_grad()
        losses.append(float(loss))
    masters = optimizer._master_weights
    last = {name: numbers(masters.get(p.name, p)) for name, p in model.named_parameters()}
    paddle.set_device(device)
    return {"losses": losses, "gradients": gradients, "weights": last}


def numbers(tensor: paddle.Tensor) -> np.ndarray:
    return tensor.astype("float32").numpy()


def distance(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference."""
    assert found.shape == wanted.shape, f"{found.shape} is not {wanted.shape}"
    return float(np.abs(found - wanted).max())


# -- where the state lies --------------------------------------------------------------------------------


def innermost(optimizer: Any) -> Any:
    """Paddle's own optimizer inside fleet's and sharding's."""
    while True:
        inner = getattr(optimizer, "_inner_opt", getattr(optimizer, "_optim", optimizer))
        if inner is optimizer:
            return optimizer
        optimizer = inner


def state(model: nn.Layer, optimizer: Any) -> Iterator[tuple[str, paddle.Tensor]]:
    """Every parameter, gradient, accumulator and master weight."""
    for p in model.parameters():
        yield f"parameter {p.name}", p
        for kind in ("grad", "main_grad"):
            if getattr(p, kind, None) is not None:
                yield f"{kind} {p.name}", getattr(p, kind)
    inner = innermost(optimizer)
    for kind, by_name in inner._accumulators.items():
        if kind in HOST_NUMBERS:
            continue
        for name, tensor in by_name.items():
            yield f"{kind} {name}", tensor
    for name, tensor in inner._master_weights.items():
        yield f"master {name}", tensor


class Places:
    """Looks, step by step, whether all state is on this rank's device and stays in its memory."""

    def __init__(self, *, fixed: bool = True) -> None:
        self.own = str(paddle.framework._current_expected_place())
        self.fixed = fixed
        self.strays: list[str] = []
        self.looked = 0
        self.addresses: dict[str, int] = {}

    def look(self, step: int, model: nn.Layer, optimizer: Any) -> None:
        for name, tensor in state(model, optimizer):
            if not tensor._is_initialized():
                continue
            self.looked += 1
            if str(tensor.place) != self.own:
                self.strays.append(f"step {step}: {name} is on {tensor.place}")
            if self.fixed and not name.startswith("grad"):
                before = self.addresses.setdefault(name, tensor.data_ptr())
                if before != tensor.data_ptr():
                    self.strays.append(f"step {step}: {name} has other memory than before")

    def report(self) -> dict[str, Any]:
        return {"device": self.own, "strays": self.strays, "looked": self.looked}


def main(program: Callable[[], dict[str, Any]]) -> None:
    """Run a rank's program and write what it returns."""
    seen = program()
    Path(sys.argv[1], f"{RANK}.json").write_text(json.dumps(seen))
