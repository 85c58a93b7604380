"""One optimizer step: forward and backward passes, the norm of the gradient, the update.

The loss of a step is the sum over its label tokens divided by their number, over all passes of the step, so
that 4 passes of 2 samples give what one pass of 8 gives. Gradients are summed as they come; the division
happens inside the update, and with it the one by the loss scale.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from mix_core.errors import DataError, RunFailedError
from mix_core.training.faults import place
from mix_core.training.finite import first_not_finite
from mix_core.training.precision import Precision
from mix_core.training.throughput import COMMUNICATION, NOTHING, Counted, Counter, StepClock

if TYPE_CHECKING:
    from mix_core.training.loss_scale import LossScale
    from mix_core.training.optimizer import AdamW
    from mix_core.training.parallel import Ranks
    from mix_core.training.pipeline.engine import Pipeline
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
    """Global norm before clipping; not finite where the update was skipped."""
    label_tokens: int
    tokens: int
    """Tokens that are no padding."""
    epoch: float
    step_ms: float
    data_ms: float
    """Part of step_ms that was spent waiting for data."""
    ends_epoch: bool
    communication_ms: float = 0.0
    """Part of step_ms in sums over ranks, waiting for the others included."""
    counted: Counted = NOTHING
    loss_scale: float | None = None
    """Of this step, where there is one."""
    skipped: bool = False
    """Whether gradients overflowed, so that there was no update."""
    modules: dict[str, dict[str, float]] | None = None
    """`module_stats` before clipping, in the steps that ask for it."""

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
        precision: Precision | None = None,
        loss_scale: LossScale | None = None,
        ranks: Ranks | None = None,
        module_stats_steps: int = 0,
        counter: Counter | None = None,
        clock: StepClock | None = None,
        pipeline: Pipeline | None = None,
    ) -> None:
        """`module_stats_steps`: steps between statistics of the modules; 0: never. `clock`: communication it
        has counted when a step begins is that step's. `pipeline`: runs the passes, where the model's layers
        are on several ranks."""
        self.pipeline = pipeline
        self.counter, self.clock = counter or Counter(None), clock or StepClock()
        self.model = model
        self.ranks = ranks
        self.module_stats_steps = module_stats_steps
        self.precision = precision or Precision()
        self.loss_scale = loss_scale
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
            NotFiniteError: the loss is not finite, or the gradient at the lowest loss scale or without any;
                parameters are as they were before the step, but for those that an optimizer has updated going
                back from a finite loss.
            DataError: no sample of the step has anything to learn.
        """
        scale, factor = None, 1.0
        if self.loss_scale is not None:
            (expected,) = self._totals(_labels(batches.passes))
            scale, factor = self.loss_scale.scale, self.loss_scale.factor(expected)
        missing = self._missing(len(batches.passes))
        self.optimizer.begin_step()
        loss_sum, label_tokens = self._run(step, batches.passes, missing, factor)
        self.optimizer.after_passes()
        digits = self.counter.count(batches.passes).digits()
        label_tokens, tokens, *digits = self._totals(label_tokens, batches.tokens, *digits)
        if label_tokens == 0:
            raise DataError(
                f"step {step}: none of its samples has a label; check the rows' answers and mask_history"
            )
        if self.ranks is not None:
            with self.clock.of(COMMUNICATION):
                loss_sum = self.ranks.sum_passes(self.optimizer, loss_sum)
        norm_of_sums, total = self.optimizer.gradient_norm(beside=loss_sum)
        loss, norm = total / label_tokens, norm_of_sums / factor / label_tokens
        place("forward")
        rate = self.schedule.rate(step)
        finite = self._check(step, loss, norm)
        modules = self._modules(step, label_tokens * factor)
        if finite:
            clip = min(1.0, self.max_grad_norm / (norm + 1e-6)) if self.max_grad_norm > 0 else 1.0
            self.optimizer.step(rate, grad_scale=clip / label_tokens / factor)
        self.optimizer.clear_grad()
        seconds = self.clock.take()
        return StepResult(
            step=step,
            loss=loss,
            learning_rate=rate,
            grad_norm=norm,
            label_tokens=label_tokens,
            tokens=tokens,
            epoch=batches.epoch,
            step_ms=(time.perf_counter() - started) * 1e3,
            data_ms=waited_s * 1e3,
            ends_epoch=batches.ends_epoch,
            communication_ms=seconds[COMMUNICATION] * 1e3,
            counted=Counted.summed(digits),
            loss_scale=scale,
            skipped=not finite,
            modules=modules,
        )

    def _run(
        self, step: int, passes: Sequence[dict[str, Any]], missing: int, factor: float
    ) -> tuple[Any, int]:
        """Forward and backward of a step's passes, and `missing` that others have and this rank has not.

        -> their summed loss, None without any, and their labels.

        Of a pipeline, the last stage alone has the loss.
        """
        if self.pipeline is not None:
            everyone = [*passes, *[None] * missing]
            return self.pipeline.run(
                everyone, factor, partial(self._begin, step), self.optimizer.around_piece
            )
        loss_sum, label_tokens = None, 0
        for number, batch in enumerate(passes, start=1):
            if number == len(passes):
                self.optimizer.before_last_pass()
            self._begin(step, batch)
            with self.precision.computing():
                pass_loss, count = self.model.loss(batch)
                if count:
                    self.optimizer.before_backward(pass_loss, self.schedule.rate(step), 1.0 / count / factor)
                (pass_loss if factor == 1.0 else pass_loss * factor).backward()
            self.optimizer.after_pass()
            label_tokens += count
            detached = pass_loss.detach()
            loss_sum = detached if loss_sum is None else loss_sum + detached
        for _ in range(missing):
            self.optimizer.after_pass()
        return loss_sum, label_tokens

    def _begin(self, step: int, batch: dict[str, Any]) -> None:
        """Have the model draw for the samples of this batch."""
        if self.model.random is not None:
            self.model.random.start(seed=self.seed, step=step, samples=batch.get("sample_ids"))

    def _totals(self, *counts: int) -> Sequence[int]:
        if self.ranks is None:
            return counts
        with self.clock.of(COMMUNICATION):
            return self.ranks.totals_of_samples(counts)

    def _missing(self, passes: int) -> int:
        """Passes that other ranks have and this one has not, where that matters before the step's end."""
        if self.ranks is None or self.ranks.sharding is None or self.ranks.sharding.stage < 2:
            return 0
        with self.clock.of(COMMUNICATION):
            return self.ranks.missing(passes)

    def _modules(self, step: int, scale: float) -> dict[str, dict[str, float]] | None:
        if not self.module_stats_steps or step % self.module_stats_steps:
            return None
        from mix_core.training.module_stats import module_stats

        return module_stats(self.optimizer.named_parameters(), self.optimizer.summed(), scale)

    def _check(self, step: int, loss: float, norm: float) -> bool:
        """Whether the step may be taken; False where scaled gradients overflowed. Moves the loss scale."""
        if math.isfinite(loss) and math.isfinite(norm):
            if self.loss_scale is not None:
                self.loss_scale.went_well()
            return True
        if math.isfinite(loss) and self.loss_scale is not None and self.loss_scale.overflowed():
            return False
        in_backward = self.optimizer.in_backward
        where = "" if in_backward is None else in_backward.first_not_finite()
        if not where:
            whole = {name: one for name, one in self.model.named_parameters() if one._is_initialized()}
            where = first_not_finite(whole, self.optimizer.summed())
        at = "" if self.loss_scale is None else f" at loss scale {self.loss_scale.scale:g}"
        raise NotFiniteError(
            f"step {step}: the loss is {loss:.4g}, the gradient's norm {norm:.4g}{at}; {where}"
        )


def _labels(passes: Sequence[dict[str, Any]]) -> int:
    """Labels of all passes, before any is run."""
    return sum(int((batch["labels"] != -100).sum()) for batch in passes)
