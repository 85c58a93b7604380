"""A factor on the loss that keeps float16 gradients within the range of their type.

Micikevicius et al., "Mixed Precision Training", 2018. Gradients that overflow cost the step its update and
halve the factor; it doubles after `GROWTH_INTERVAL` steps without.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

GROWTH_INTERVAL = 2000
GROWTH, BACKOFF = 2.0, 0.5
LOWEST, HIGHEST = 1.0, 2.0**24
"""Gradients that overflow at 1 are wrong without any scale. The highest keeps the factor itself finite."""


@dataclass
class LossScale:
    """The factor of a run, which changes by powers of two, so that it rounds nothing."""

    scale: float
    """On the mean loss of a step."""
    good_steps: int = 0
    """Steps since it last changed."""

    def factor(self, labels: int) -> float:
        """The factor on the sum of the losses of about so many labels: a power of two, next to the mean's."""
        return self.scale / 2.0 ** max(0, labels - 1).bit_length()

    def went_well(self) -> None:
        """A step's gradients were finite."""
        self.good_steps += 1
        if self.good_steps >= GROWTH_INTERVAL:
            self.scale, self.good_steps = min(self.scale * GROWTH, HIGHEST), 0

    def overflowed(self) -> bool:
        """A step's gradients were not finite. Returns whether there is a lower factor to go on with."""
        if self.scale <= LOWEST:
            return False
        self.scale, self.good_steps = max(self.scale * BACKOFF, LOWEST), 0
        return True

    def state(self) -> dict[str, Any]:
        """For checkpoints."""
        return {"scale": self.scale, "good_steps": self.good_steps}

    def load(self, state: dict[str, Any]) -> None:
        self.scale, self.good_steps = float(state["scale"]), int(state["good_steps"])
