"""The best model so far, by a result of the evaluations during training; and when to stop waiting for a
better.

A result is an improvement where it is better than the best one by more than the threshold; the best is
whatever is better at all. So a run of tiny gains ends, and its best checkpoint is still the best one seen.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mix_core.errors import ConfigError
from mix_core.training.checkpoint import is_whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from mix_core.config import RunConfig

PREFIX = "eval_"


@dataclass
class Best:
    """What evaluations have shown so far."""

    metric: str
    greater: bool
    """Whether more of it is better."""
    patience: int | None = None
    """Evaluations in a row without an improvement after which the run stops; None: never."""
    threshold: float = 0.0
    value: float | None = None
    step: int | None = None
    """Where the best value was measured."""
    waited: int = 0
    """Evaluations in a row without an improvement."""

    def update(self, step: int, results: Mapping[str, float]) -> bool:
        """Take the results of an evaluation; True where they are the best so far.

        A value that is not finite is worse than any other.

        Raises:
            ConfigError: the results lack the metric.
        """
        if self.metric not in results:
            raise ConfigError(_unknown(self.metric, results))
        value = float(results[self.metric])
        gain = math.inf if self.value is None else (value - self.value) * (1 if self.greater else -1)
        if not math.isfinite(value):
            gain = -math.inf
        self.waited = 0 if gain > self.threshold else self.waited + 1
        if gain <= 0:
            return False
        self.value, self.step = value, step
        return True

    @property
    def exhausted(self) -> bool:
        """Whether the run has waited long enough for an improvement."""
        return self.patience is not None and self.waited >= self.patience

    def checkpoint(self, folders: Sequence[Path]) -> Path | None:
        """The whole checkpoint of the best step, in the first of these run folders that has it."""
        paths = [folder / f"checkpoint-{self.step}" for folder in folders]
        return next((path for path in paths if path.is_dir() and is_whole(path)), None)

    def look_for(self, folders: Sequence[Path]) -> None:
        """Forget a best step whose checkpoint is gone, with a line: the next evaluation is then the best."""
        if self.step is not None and self.checkpoint(folders) is None:
            print(f"checkpoint-{self.step}, the best so far, is gone; the next is the best", file=sys.stderr)
            self.value = self.step = None

    def in_words(self) -> str:
        """Why a run has waited long enough."""
        value = "nothing" if self.value is None else f"{self.value:.4g}, of step {self.step},"
        more = f" by more than {self.threshold:g}" if self.threshold else ""
        return f"{self.metric} has not improved on {value}{more} in {self.waited} evaluations"

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"metric": self.metric, "value": self.value, "step": self.step, "waited": self.waited}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where a checkpoint stood; what was measured by another metric says nothing."""
        if state.get("metric") == self.metric:
            self.value, self.step, self.waited = state["value"], state["step"], int(state["waited"])


def best_of(config: RunConfig, metrics: Iterable[str]) -> Best | None:
    """What a configuration asks to be kept an eye on; None where it asks for nothing.

    Args:
        metrics: the names that evaluation during training gives.
    Raises:
        ConfigError: metric_for_best_model is none of them, or nothing is held out.
    """
    asked = (
        config.load_best_model_at_end
        or config.early_stopping_patience is not None
        or config.metric_for_best_model is not None
    )
    if not asked or config.evaluation_strategy == "no" or not config.do_train:
        return None
    metrics = list(metrics)
    if not metrics:
        raise ConfigError("the best model is wanted, but there are no held-out rows; give dataset.eval")
    metric = (config.metric_for_best_model or "loss").removeprefix(PREFIX)
    if metric not in metrics:
        raise ConfigError(_unknown(metric, metrics))
    greater = config.greater_is_better
    return Best(
        metric,
        greater=not metric.endswith("loss") if greater is None else greater,
        patience=config.early_stopping_patience,
        threshold=config.early_stopping_threshold,
    )


def _unknown(metric: str, known: Iterable[str]) -> str:
    return f"metric_for_best_model is {metric}, and evaluation gives {', '.join(known)}; name one of them"
