"""One optimizer step: forward and backward passes, the norm of the gradient, the update.

The loss of a step is the sum over its label tokens divided by their number, over all passes of the step, so
that 4 passes of 2 samples give what one pass of 8 gives. Gradients are summed as they come; the division
happens inside the update.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mix_core.errors import DataError, RunFailedError
from mix_core.training.faults import place
from mix_core.training.finite import first_not_finite

if TYPE_CHECKING:
    from mix_core.training.optimizer import AdamW
    from mix_core.training.schedule import Schedule
    from mix_core.training.stream import StepBatches


class NotFiniteError(RunFailedError):
    """The loss or the gradient of a step is NaN or infinite."""


@dataclass(frozen=True)
class StepResult:
    """What one step measured."""

    step: int
    loss: float
    """Mean over the step's label tokens."""
    learning_rate: float
    grad_norm: float
    """Global norm before clipping."""
    label_tokens: int
    tokens: int
    """Tokens that are no padding."""
    epoch: float
    step_ms: float
    data_ms: float
    """Part of step_ms that was spent waiting for data."""
    ends_epoch: bool

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.step_ms * 1e3


class Stepper:
    """Takes one optimizer step at a time."""

    def __init__(
        self,
        model: Any,
        optimizer: AdamW,
        schedule: Schedule,
        *,
        max_grad_norm: float,
        seed: int,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.schedule = schedule
        self.max_grad_norm = max_grad_norm
        self.seed = seed

    def take(self, step: int, batches: StepBatches, started: float, waited_s: float) -> StepResult:
        """Run the passes of one step and its update.

        Args:
            step: its number, from 1.
            started: time.perf_counter() when the step began; `waited_s` of it went into data.
        Raises:
            NotFiniteError: loss or gradient is not finite; parameters are as they were before the step.
            DataError: no sample of the step has anything to learn.
        """
        loss_sum: Any = None
        label_tokens = 0
        for batch in batches.passes:
            if self.model.random is not None:
                self.model.random.start(seed=self.seed, step=step, samples=batch.get("sample_ids"))
            pass_loss, count = self.model.loss(batch)
            pass_loss.backward()
            label_tokens += count
            detached = pass_loss.detach()
            loss_sum = detached if loss_sum is None else loss_sum + detached
        if label_tokens == 0:
            raise DataError(
                f"step {step}: none of its samples has a label; check the rows' answers and mask_history"
            )
        norm_of_sums, total = self.optimizer.gradient_norm(beside=loss_sum)
        loss, norm = total / label_tokens, norm_of_sums / label_tokens
        place("forward")
        if not (math.isfinite(loss) and math.isfinite(norm)):
            where = first_not_finite(list(self.model.named_parameters()))
            raise NotFiniteError(
                f"step {step}: the loss is {loss:.4g}, the gradient's norm {norm:.4g}; {where}"
            )
        clip = min(1.0, self.max_grad_norm / (norm + 1e-6)) if self.max_grad_norm > 0 else 1.0
        rate = self.schedule.rate(step)
        self.optimizer.step(rate, grad_scale=clip / label_tokens)
        self.optimizer.clear_grad()
        return StepResult(
            step=step,
            loss=loss,
            learning_rate=rate,
            grad_norm=norm,
            label_tokens=label_tokens,
            tokens=batches.tokens,
            epoch=batches.epoch,
            step_ms=(time.perf_counter() - started) * 1e3,
            data_ms=waited_s * 1e3,
            ends_epoch=batches.ends_epoch,
        )
