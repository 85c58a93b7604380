"""AdamW over a model's learning parameters: groups, moments, the global gradient norm, saving and loading.

Loshchilov and Hutter, "Decoupled weight decay regularization", 2019. The update itself is an operator
(`mix_core.ops.adamw`) that takes all parameters of a group at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import paddle
from paddle import Tensor, _C_ops

from mix_core import ops
from mix_core.errors import CheckpointError
from mix_core.training.state import StateReader

MEAN, SQUARE = "optimizer.mean.", "optimizer.square."
"""Before a parameter's name: the running means of its gradient and of the squared one, in checkpoints."""


@dataclass
class Group:
    """Parameters that share a learning rate and a decay; the lists run side by side."""

    weight_decay: float
    rate_factor: float
    """Their learning rate, as a multiple of the run's."""
    names: list[str] = field(default_factory=list)
    parameters: list[Tensor] = field(default_factory=list)
    means: list[Tensor] = field(default_factory=list)
    squares: list[Tensor] = field(default_factory=list)


def decays(parameter: Tensor) -> bool:
    """Norms and biases have one axis and no weight decay; matrices, embeddings and convolutions have."""
    return parameter.ndim >= 2


class AdamW:
    """Adam with decoupled weight decay.

    Args:
        model: its parameters whose `stop_gradient` is set are left out.
        rate_factors: published name -> multiple of the learning rate, where it is not 1.

    A parameter without a gradient in some step (the vision tower, in a batch of text) is left as it is.
    """

    def __init__(
        self,
        model: paddle.nn.Layer,
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
        rate_factors: dict[str, float] | None = None,
    ) -> None:
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon
        self.steps = 0
        """Updates so far; the moments' correction for their start at zero depends on it."""
        groups: dict[tuple[float, float], Group] = {}
        for name, parameter in model.named_parameters():
            if parameter.stop_gradient:
                continue
            kind = (weight_decay if decays(parameter) else 0.0, (rate_factors or {}).get(name, 1.0))
            group = groups.setdefault(kind, Group(*kind))
            group.names.append(name)
            group.parameters.append(parameter)
            group.means.append(paddle.zeros(parameter.shape, dtype="float32"))
            group.squares.append(paddle.zeros(parameter.shape, dtype="float32"))
        self.groups = list(groups.values())
        order = {name: place for place, (name, _) in enumerate(model.named_parameters())}
        pairs = [pair for group in self.groups for pair in zip(group.names, group.parameters)]
        self._named = sorted(pairs, key=lambda pair: order[pair[0]])

    def named_parameters(self) -> list[tuple[str, Tensor]]:
        """The learning parameters in the model's order."""
        return self._named

    @paddle.no_grad()
    def gradient_norm(self, beside: Tensor) -> tuple[float, float]:
        """The norm of all gradients, and the value of the scalar `beside`, with one wait for the device."""
        squares = [_C_ops.squared_l2_norm(p.grad) for _, p in self._named if p.grad is not None]
        square = paddle.add_n(squares) if squares else paddle.zeros([1])
        both = paddle.concat([square.reshape([1]), beside.astype("float32").reshape([1])]).numpy()
        return float(np.sqrt(both[0], dtype=np.float64)), float(both[1])

    @paddle.no_grad()
    def step(self, learning_rate: float, *, grad_scale: float = 1.0) -> None:
        """Update every parameter that has a gradient; `grad_scale` multiplies the gradients on the way."""
        self.steps += 1
        for group in self.groups:
            gradients = [parameter.grad for parameter in group.parameters]
            lists = (group.parameters, gradients, group.means, group.squares)
            if any(gradient is None for gradient in gradients):
                rows = [row for row in zip(*lists) if row[1] is not None]
                lists = tuple(list(column) for column in zip(*rows)) if rows else ([], [], [], [])
            if not lists[0]:
                continue
            ops.adamw(
                *lists,
                step=self.steps,
                learning_rate=learning_rate * group.rate_factor,
                beta1=self.beta1,
                beta2=self.beta2,
                epsilon=self.epsilon,
                weight_decay=group.weight_decay,
                grad_scale=grad_scale,
            )

    def clear_grad(self) -> None:
        """Forget the gradients, their memory too."""
        for _, parameter in self._named:
            parameter.clear_gradient(False)

    def state(self) -> Iterator[tuple[str, np.ndarray]]:
        """The moments, by their names in checkpoints."""
        for group in self.groups:
            for name, mean, square in zip(group.names, group.means, group.squares):
                yield MEAN + name, mean.numpy()
                yield SQUARE + name, square.numpy()

    def load(self, reader: StateReader, steps: int) -> None:
        """Take the moments from a checkpoint.

        Raises:
            CheckpointError: it has no moments, or not those of these parameters.
        """
        if not reader.names(MEAN):
            raise CheckpointError(
                f"{reader.folder} holds no optimizer state (save_optimizer was false); "
                "--load_optimizer false starts the moments anew"
            )
        for group in self.groups:
            for name, mean, square in zip(group.names, group.means, group.squares):
                for prefix, tensor in ((MEAN, mean), (SQUARE, square)):
                    values = reader.read(prefix + name)
                    if list(values.shape) != list(tensor.shape):
                        raise CheckpointError(
                            f"{reader.folder}: {prefix}{name} has shape {values.shape}, the model's is "
                            f"{tuple(tensor.shape)}"
                        )
                    tensor.set_value(values)
        self.steps = steps
