"""A running mean of what learns, in float32: the weights that pictures are made with and that are published.

Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992; as an exponential mean,
with the warm-up of Abadi et al., "TensorFlow", 2015: after n steps its decay is at most (1 + n) / (10 + n).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import paddle
from paddle import Tensor

from mix_core.ops.dtypes import cast
from mix_core.training.optimizer import AdamW, KeptPart
from mix_core.training.partition import whole_box
from mix_core.training.state import StateReader

AVERAGE, OWN = "average.", "learnt."
"""Before a parameter's name in checkpoints: its mean, and the value that learns (a checkpoint's model files
hold the mean)."""


class Average:
    def __init__(
        self, parameters: Sequence[tuple[str, Tensor]], values: Sequence[Tensor], decay: float
    ) -> None:
        """`values`: in float32, what the mean is of; the parameters' own, or their masters."""
        self.parameters, self.values, self.decay = list(parameters), list(values), decay
        self.steps = 0
        self.means = [value.detach().clone() for value in self.values]

    @paddle.no_grad()
    def update(self) -> None:
        """Take the values of one more step."""
        self.steps += 1
        kept = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for mean, value in zip(self.means, self.values):
            mean.scale_(kept).add_(value * (1.0 - kept))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The parameters have the mean within, and their own values behind it."""
        own = [parameter.detach().clone() for _, parameter in self.parameters]
        try:
            self._set(self.means)
            yield
        finally:
            self._set(own)

    @paddle.no_grad()
    def _set(self, values: Sequence[Tensor]) -> None:
        for (_, parameter), value in zip(self.parameters, values):
            parameter.set_value(cast(value, parameter.dtype))


class AveragedAdamW(AdamW):
    """AdamW that keeps the mean of what it learns; its state in checkpoints has both."""

    average: Average

    def average_with(self, decay: float) -> Average:
        """Begin the mean at the values of now."""
        masters = {name: master for group in self.groups for name, master in zip(group.names, group.masters)}
        named = self.named_parameters()
        self.average = Average(named, [masters[name] for name, _ in named], decay)
        return self.average

    def step(self, learning_rate: float, *, grad_scale: float = 1.0) -> None:
        super().step(learning_rate, grad_scale=grad_scale)
        self.average.update()

    def kept(self) -> Iterator[KeptPart]:
        yield from super().kept()
        for (name, _), value, mean in zip(self.average.parameters, self.average.values, self.average.means):
            whole = tuple(value.shape)
            yield KeptPart(OWN + name, value, whole_box(whole), whole)
            yield KeptPart(AVERAGE + name, mean, whole_box(whole), whole)

    def load(self, reader: StateReader, steps: int) -> None:
        super().load(reader, steps)
        self.average.steps = steps
        rows: Any = zip(self.average.parameters, self.average.values, self.average.means)
        for (name, parameter), value, mean in rows:
            value.set_value(reader.read(OWN + name))
            mean.set_value(reader.read(AVERAGE + name))
            if value is not parameter:
                parameter.set_value(cast(value, parameter.dtype))
