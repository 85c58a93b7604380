"""Update parameters while a pass goes back, each as soon as it has its gradient, which is then forgotten.

At no moment do all gradients stand in memory (Lv et al., "Full parameter fine-tuning for large language
models with limited resources", 2023). What a step computes stays the same, to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import paddle
from paddle import Tensor, _C_ops

from mix_core.errors import RunFailedError

if TYPE_CHECKING:
    from mix_core.training.optimizer import AdamW

BUNCH = 1 << 21
"""Numbers whose gradients wait for one update: with a call for each parameter, updates of layers of 0.3 to
0.7 million took 44 ms a step where all at once took 30, and these 30 too (2 EPYC cores)."""


class BackwardUpdates:
    """Updates the parameters of an optimizer going back, some at a time.

    They move in a pass that `begin` has announced, once each. Clipping by the norm of all gradients, a step
    of several passes and a loss scale are therefore out of the question.
    """

    def __init__(self, optimizer: AdamW, bunch: int) -> None:
        """`bunch`: numbers of gradients that are enough for an update."""
        self._optimizer, self._bunch = optimizer, bunch
        self._rates: tuple[float, float] | None = None
        """Learning rate and the gradients' factor of the pass; None: nothing is updated."""
        self._waiting: dict[str, Tensor] = {}
        """Gradients that the next update takes."""
        self.squares: dict[str, Tensor] = {}
        """Sums of squares (1,) of this step's gradients, by parameter; most of these are forgotten."""
        self._twice = ""
        """A parameter that had a second gradient in the pass."""
        for name, parameter in optimizer.named_parameters():
            parameter._register_backward_hook(self._arriving(name, parameter))

    def begin(self, loss: Tensor, learning_rate: float, grad_scale: float) -> None:
        """A step's only pass goes back next; from a loss that is not finite nothing is learnt."""
        if math.isfinite(loss.item()):
            self._rates = (learning_rate, grad_scale)

    def _arriving(self, name: str, parameter: Tensor) -> Callable[..., None]:
        """What is called when the parameter has its gradient, after a narrow one has been summed."""

        @paddle.no_grad()
        def note(*_: object) -> None:
            if self._rates is None:
                return
            if name in self.squares:
                self._twice = self._twice or name
                return
            gradient = self._optimizer.gradient(name, parameter)
            self.squares[name] = _C_ops.squared_l2_norm(gradient)
            self._waiting[name] = gradient
            if sum(int(one.size) for one in self._waiting.values()) >= self._bunch:
                self._optimizer.update_now(self._waiting, *self._rates)
                self._waiting.clear()

        return note

    def end(self) -> None:
        """The pass has gone back.

        Raises:
            RunFailedError: a parameter had its gradient in two parts (two layers that are computed again
                share it), and the first part alone moved it.
        """
        self._rates = None
        self._waiting.clear()  # `AdamW.step` updates what is left
        if self._twice:
            raise RunFailedError(
                f"{self._twice} had its gradient in more than one part, and optimizer_in_backward takes it "
                "whole; leave out optimizer_in_backward, or recompute"
            )

    def first_not_finite(self) -> str:
        """In words, which gradient was the first one that was not finite; empty where all were."""
        for name, square in self.squares.items():
            if not math.isfinite(square.item()):
                return (
                    f"going back, the first gradient that was not finite was that of {name}, and it has been "
                    "applied (optimizer_in_backward)"
                )
        return ""
