"""AdamW over a model's learning parameters: groups, moments, the global gradient norm, saving and loading.

Loshchilov and Hutter, "Decoupled weight decay regularization", 2019. The update itself is an operator
(`mix_core.ops.adamw`) that takes all parameters of a group at once.

A parameter narrower than float32 has a master: the float32 value that updates change and of which it is the
rounded copy. Its gradients of several passes are summed in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle
from paddle import Tensor, _C_ops

from mix_core import ops
from mix_core.errors import CheckpointError
from mix_core.models.common.parts import held_box, is_part, placed, whole_shape
from mix_core.ops.dtypes import NARROW, cast
from mix_core.training.in_backward import BackwardUpdates
from mix_core.training.partition import Box, whole_box
from mix_core.training.state import StateReader

if TYPE_CHECKING:
    from mix_core.training.parallel import Ranks
    from mix_core.training.pipeline.stage import Stage

MEAN, SQUARE, MASTER = "optimizer.mean.", "optimizer.square.", "optimizer.master."
"""Before a parameter's name in checkpoints: the running means of its gradient and of the squared one, and its
float32 value where the model's is narrower."""


@dataclass
class Group:
    """Parameters that share a learning rate and a decay; the lists run side by side."""

    weight_decay: float
    rate_factor: float
    """Their learning rate, as a multiple of the run's."""
    names: list[str] = field(default_factory=list)
    parameters: list[Tensor] = field(default_factory=list)
    masters: list[Tensor] = field(default_factory=list)
    """Float32 values; the parameters themselves where these are float32."""
    means: list[Tensor] = field(default_factory=list)
    squares: list[Tensor] = field(default_factory=list)

    def only(self, names: Container[str]) -> Group:
        """A group of some of the parameters, of the same tensors."""
        lists = (self.names, self.parameters, self.masters, self.means, self.squares)
        rows = [row for row in zip(*lists) if row[0] in names]
        return Group(self.weight_decay, self.rate_factor, *([row[i] for row in rows] for i in range(5)))


@dataclass(frozen=True)
class KeptPart:
    """A tensor of the optimizer's state, or this rank's part of it."""

    name: str
    """In checkpoints."""
    tensor: Tensor
    box: Box
    """Where it stands in the whole."""
    whole: tuple[int, ...]
    """Shape of the whole."""


def decays(parameter: Tensor) -> bool:
    """Norms and biases have one axis and no weight decay; matrices, embeddings and convolutions have."""
    return parameter.ndim >= 2


class AdamW:
    """Adam with decoupled weight decay.

    Args:
        model: its parameters whose `stop_gradient` is set are left out.
        rate_factors: published name -> multiple of the learning rate, where it is not 1.
        masters: published name -> float32 value of each learning parameter that is narrower.
        ranks: those that have parts of the model; None: it is whole.
        stage: what this rank has of a pipeline's model.
        in_backward: above 0, parameters are updated going back, whenever gradients of so many numbers have
            come. Every step has one pass then, announced by `before_backward`.

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
        rate_factors: Mapping[str, float] | None = None,
        masters: Mapping[str, Tensor] | None = None,
        ranks: Ranks | None = None,
        stage: Stage | None = None,
        in_backward: int = 0,
    ) -> None:
        self._ranks, self.stage = ranks, stage
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon
        self.steps = 0
        """Updates so far; the moments' correction for their start at zero depends on it."""
        self._named: list[tuple[str, Tensor]] = []
        groups: dict[tuple[float, float], Group] = {}
        for name, parameter in model.named_parameters():
            if parameter.stop_gradient:
                continue
            self._named.append((name, parameter))
            box = self._box(parameter)
            if not box.size:
                continue
            kind = (weight_decay if decays(parameter) else 0.0, (rate_factors or {}).get(name, 1.0))
            group = groups.setdefault(kind, Group(*kind))
            group.names.append(name)
            group.parameters.append(parameter)
            group.masters.append(self._master((masters or {}).get(name, parameter), box))
            group.means.append(paddle.zeros(list(box.shape), dtype="float32"))
            group.squares.append(paddle.zeros(list(box.shape), dtype="float32"))
        self.groups = list(groups.values())
        self._sums: dict[str, Tensor] = {}
        """Gradients of narrow parameters so far, in float32."""
        for name, parameter in self._named:
            if parameter.dtype in NARROW:
                parameter._register_backward_hook(self._summing(name, parameter))
        self.in_backward = BackwardUpdates(self, in_backward) if in_backward else None

    def _box(self, parameter: Tensor) -> Box:
        """What is updated here, as a box of what this rank has of the parameter."""
        return whole_box(parameter.shape)

    def _master(self, values: Tensor, box: Box) -> Tensor:
        """The float32 tensor that updates change, of these values."""
        return values

    def _summing(self, name: str, parameter: Tensor) -> Callable[..., None]:
        """What is called when the parameter has its gradient of one pass: add it to the sum, forget it."""

        @paddle.no_grad()
        def add(*_: object) -> None:
            gradient = parameter.grad.astype("float32")
            parameter.clear_gradient(False)
            self._sums[name] = self._sums[name].add_(gradient) if name in self._sums else gradient

        return add

    def gradients(self) -> dict[str, Tensor]:
        """The gradients so far by name, in float32, in the model's order; None where there is none."""
        return {name: self.gradient(name, parameter) for name, parameter in self._named}

    def gradient(self, name: str, parameter: Tensor) -> Tensor | None:
        """Of one parameter, as in `gradients`."""
        return self._sums.get(name) if parameter.dtype in NARROW else parameter.grad

    def summed(self) -> dict[str, Tensor]:
        """What the update takes: the gradients, once they are summed over all passes and ranks."""
        return self.gradients()

    def begin_step(self) -> None:
        """Called before the first pass of a step."""

    def before_last_pass(self) -> None:
        """Called before a step's last pass goes forward, by a rank that has one."""

    def after_passes(self) -> None:
        """Called when a step's passes have gone back, by a rank that has none too."""

    def release(self) -> None:
        """Called before training: this rank may have a part of the model from here on."""
        if self.stage is not None:
            self.stage.release()

    def gather(self) -> None:
        """Called after training: the first rank has the whole model again."""
        if self.stage is not None:
            self.stage.gather()

    def whole(self) -> AbstractContextManager[None]:
        """Around whatever needs the whole model on the first rank between steps; all ranks join in."""
        return nullcontext() if self.stage is None else self.stage.whole()

    def weights(self) -> Iterator[KeptPart]:
        """What this rank writes of parameters that the first one has not whole, by the parameters' names."""
        for name, parameter in self._named:
            if is_part(parameter) and self.answers_for(parameter):
                yield KeptPart(name, parameter, held_box(parameter), whole_shape(parameter))
        if self.stage is not None:
            yield from self.stage.weights()

    def before_backward(self, loss: Tensor, learning_rate: float, grad_scale: float) -> None:
        """Called before a pass with labels goes back: its loss, and what `step` would be given if it were the
        step's only one, and nothing were clipped."""
        if self.in_backward is not None:
            self.in_backward.begin(loss, learning_rate, grad_scale)

    def after_pass(self) -> None:
        """Called when a pass has gone back, and by a rank that has fewer passes than others instead."""
        if self.in_backward is not None:
            self.in_backward.end()

    def around_piece(self, piece: int, going_back: bool) -> AbstractContextManager[None]:
        """Around what a stage of a pipeline computes with a piece, forward or back for a pass; around nothing
        where other pipelines alone have this pass."""
        return nullcontext()

    @paddle.no_grad()
    def ensure_summed(self, name: str) -> Tensor | None:
        """What `summed` has of the parameter, zero if that was nothing; None where this rank has no part."""
        self.ensure_gradient(name)
        return self.gradients()[name]

    @paddle.no_grad()
    def ensure_gradient(self, name: str) -> None:
        """Where the parameter has no gradient yet, make it zero."""
        parameter = dict(self._named)[name]
        if parameter.dtype in NARROW:
            if name not in self._sums:
                self._sums[name] = paddle.zeros(parameter.shape, dtype="float32")
        elif parameter.grad is None:
            parameter.grad = paddle.zeros_like(parameter)

    def named_parameters(self) -> list[tuple[str, Tensor]]:
        """The learning parameters in the model's order."""
        return self._named

    @paddle.no_grad()
    def gradient_norm(self, beside: Tensor) -> tuple[float, float]:
        """The norm of all gradients, and the value of the scalar `beside`, with one wait for the device."""
        counted = {name for name, parameter in self._named if self.answers_for(parameter)}
        known = {} if self.in_backward is None else self.in_backward.squares
        squares = [
            known[name] if name in known else _C_ops.squared_l2_norm(gradient)
            for name, gradient in self.summed().items()
            if name in counted and (name in known or gradient is not None)
        ]
        square = self._over_ranks(paddle.add_n(squares) if squares else paddle.zeros([1]))
        both = paddle.concat([square.reshape([1]), beside.astype("float32").reshape([1])]).numpy()
        return float(np.sqrt(both[0], dtype=np.float64)), float(both[1])

    def _over_ranks(self, square: Tensor) -> Tensor:
        """The sum of squares of what is here (1,) -> that of the whole model."""
        return square if self._ranks is None else self._ranks.over_model(square)

    def answers_for(self, parameter: Tensor) -> bool:
        """Whether this rank counts and writes what it has of a parameter: of what several ranks that have a
        model together have alike, the first one does."""
        if self.stage is not None and self.stage.repeats(parameter):
            return False
        return is_part(parameter) or self._ranks is None or self._ranks.groups.place.tensor == 0

    @paddle.no_grad()
    def step(self, learning_rate: float, *, grad_scale: float = 1.0) -> None:
        """Update every parameter that has a gradient; `grad_scale` multiplies the gradients on the way."""
        all_gradients = self.summed()
        for group in self.groups:
            self._update(group, [all_gradients.get(name) for name in group.names], learning_rate, grad_scale)
        self.steps += 1
        self._publish()

    def _update(
        self, group: Group, gradients: Sequence[Tensor | None], learning_rate: float, grad_scale: float
    ) -> None:
        """Update what has a gradient of a group, in the step behind `steps`."""
        lists: tuple[Sequence[Any], ...] = (group.masters, gradients, group.means, group.squares)
        if any(gradient is None for gradient in gradients):
            rows = [row for row in zip(*lists) if row[1] is not None]
            lists = tuple(list(column) for column in zip(*rows)) if rows else ([], [], [], [])
        if not lists[0]:
            return
        ops.adamw(
            *lists,
            step=self.steps + 1,
            learning_rate=learning_rate * group.rate_factor,
            beta1=self.beta1,
            beta2=self.beta2,
            epsilon=self.epsilon,
            weight_decay=group.weight_decay,
            grad_scale=grad_scale,
        )

    def update_now(self, gradients: Mapping[str, Tensor], learning_rate: float, grad_scale: float) -> None:
        """Update these parameters alone, in the step behind `steps`, and forget their gradients."""
        for group in self.groups:
            some = group.only(gradients)
            self._update(some, [gradients[name] for name in some.names], learning_rate, grad_scale)
            _round(some.parameters, some.masters)
            for name, parameter in zip(some.names, some.parameters):
                parameter.clear_gradient(False)
                self._sums.pop(name, None)

    def _publish(self) -> None:
        """Bring the parameters to their masters' values."""
        for group in self.groups:
            _round(group.parameters, group.masters)

    def clear_grad(self) -> None:
        """Forget the gradients, their memory too."""
        for _, parameter in self._named:
            parameter.clear_gradient(False)
        self._sums.clear()
        if self.in_backward is not None:
            self.in_backward.squares.clear()

    def kept(self) -> Iterator[KeptPart]:
        """Moments and masters, by their names in checkpoints."""
        for group in self.groups:
            lists = (group.names, group.parameters, group.masters, group.means, group.squares)
            for name, parameter, master, mean, square in zip(*lists):
                if not self.answers_for(parameter):
                    continue
                yield self._kept(MEAN + name, mean, parameter)
                yield self._kept(SQUARE + name, square, parameter)
                if parameter.dtype in NARROW:
                    yield self._kept(MASTER + name, master, parameter)

    def _kept(self, name: str, tensor: Tensor, parameter: Tensor) -> KeptPart:
        """A tensor that runs beside what this rank updates of a parameter."""
        return KeptPart(name, tensor, placed(parameter, self._box(parameter)), whole_shape(parameter))

    def load(self, reader: StateReader, steps: int) -> None:
        """Take moments, and the masters where it has them, from a checkpoint.

        Raises:
            CheckpointError: it has no moments, or not those of these parameters.
        """
        if not reader.names(MEAN):
            raise CheckpointError(
                f"{reader.folder} holds no optimizer state (save_optimizer was false); "
                "--load_optimizer false starts the moments anew"
            )
        kept = set(reader.names(MASTER))
        for group in self.groups:
            lists = (group.names, group.parameters, group.masters, group.means, group.squares)
            for name, parameter, master, mean, square in zip(*lists):
                for prefix, tensor in ((MEAN, mean), (SQUARE, square), (MASTER, master)):
                    if prefix == MASTER and prefix + name not in kept:
                        continue  # the published weights were float32: the model has them
                    shape = reader.entry(prefix + name)["shape"]
                    if tuple(shape) != whole_shape(parameter):
                        raise CheckpointError(
                            f"{reader.folder}: {prefix}{name} has shape {tuple(shape)}, the model's is "
                            f"{whole_shape(parameter)}"
                        )
                    tensor.set_value(reader.read(prefix + name, placed(parameter, self._box(parameter))))
        self._publish()
        self.steps = steps


@paddle.no_grad()
def _round(parameters: list[Tensor], masters: list[Tensor]) -> None:
    """Bring narrow parameters to their masters' values, in place."""
    for parameter, master in zip(parameters, masters):
        if master is not parameter:
            paddle.assign(cast(master, parameter.dtype), output=parameter)
