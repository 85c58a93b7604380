"""What the suite is made of: cases, the processes they share, and how a case says that something is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mix_core.errors import MixError

if TYPE_CHECKING:
    from mix_core.conformance.target import Target
    from mix_core.device import Activation

LEVELS = {
    0: "contract",
    1: "runtime",
    2: "operators",
    3: "replaceable operators",
    4: "models",
    5: "training",
    6: "distributed",
}
RUN_ORDER = (0, 1, 2, 3, 6, 4, 5)
"""Ranks take seconds and models minutes: what is wrong with ranks is known before models are run."""


class Mismatch(MixError):
    """A case found something else than the contract says."""

    exit_code = 1


@dataclass(frozen=True)
class Group:
    """Cases that share a process: a crash of a device's library ends one group, not the suite."""

    name: str
    activates: bool = True
    """Whether the process activates the device before its first case."""
    variables: tuple[tuple[str, str], ...] = ()
    """Set for the process, over the user's."""
    timeout_s: float = 300.0
    """For one case; a case that takes longer is red, and its process is ended."""
    deterministic: bool = False


RUNTIME, OPERATORS = Group("runtime"), Group("operators")
"""What needs a plain process: a new one takes seconds, and a crash costs the case that it came in alone."""


@dataclass(frozen=True)
class Case:
    """One question to a device."""

    id: str
    """`L3/rms_norm/bfloat16/gradient`: the level, then whatever tells the case from others."""
    asks: str
    """What has to hold, in one sentence."""
    group: Group
    run: Callable[[Context], None] = field(compare=False)
    """Raises Mismatch; any other exception makes the case red too, in its own words."""
    operator: str | None = None
    dtype: str | None = None
    model: str | None = None
    unless: str | None = None
    """The rule by which the case is skipped: a capability or dtype that the plugin does not declare."""

    @property
    def level(self) -> int:
        return int(self.id[1])


@dataclass
class Context:
    """What a running case is given."""

    target: Target
    scratch: Path
    """A folder that all cases of one run of the suite share."""
    active: Activation | None = None
    factor: float = 1.0
    """How much wider than the suite's the plugin's limits are for this case (conformance.toml)."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What the report shows of the case: distances, curves, timings."""

    def note_distance(self, distance: float, limit: float) -> None:
        """Keep the distance that comes nearest to its limit."""
        if distance / limit >= self.facts.get("distance", -1.0) / self.facts.get("limit", 1.0):
            self.facts |= {"distance": distance, "limit": limit}


def expect(holds: bool, text: str) -> None:
    """Raise Mismatch with `text` unless it holds."""
    if not holds:
        raise Mismatch(text)
