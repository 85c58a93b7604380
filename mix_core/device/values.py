"""The small values that cross the hook specification: decisions, probe results, requests, kernels, checks.

All are frozen. A value that decides something carries the reason for it, which `mix-core explain` shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Stage = Literal["process", "import", "runtime"]
STAGES: tuple[Stage, ...] = ("process", "import", "runtime")

SettingValue = str | int | float | bool | None | tuple[str, ...]


@dataclass(frozen=True)
class Decision:
    """The value a setting shall have, why, and when it has to be in place.

    A tuple is a list (joined by a comma for operator lists, else by the path separator) and is united with
    the user's own entries; None unsets the variable; a bool is exported as 1 or 0.
    """

    value: SettingValue
    reason: str
    stage: Stage = "import"
    """process: read when a process starts; import: read inside `import paddle`; runtime: paddle.set_flags."""
    in_process: Callable[[], None] | None = None
    """Gives a running process the effect of a process-stage variable, which then needs no new process."""
    required: bool = True
    """False: of the process stage, and a process that runs already goes on without it."""

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise ValueError(f"Decision stage {self.stage!r} is none of {', '.join(STAGES)}")
        if not self.reason.strip():
            raise ValueError(f"Decision({self.value!r}) has no reason: say why the setting is made")


@dataclass(frozen=True)
class Probe:
    """What a look at device files, installed distributions and versions found."""

    state: Literal["absent", "usable", "broken"]
    count: int | None
    """Visible devices; None when it cannot be told without touching the device."""
    reason: str

    def __post_init__(self) -> None:
        if self.state not in ("absent", "usable", "broken"):
            raise ValueError(f"Probe state {self.state!r} is none of absent, usable, broken")
        if self.count is not None and self.count < 0:
            raise ValueError(f"Probe count {self.count} is negative")


@dataclass(frozen=True)
class Workload:
    """What is going to run; hooks that answer before the start decide by it."""

    task: Literal["understanding", "generation"] = "understanding"
    model: str | None = None
    """Model family, for example `qwen2_5_vl`; None when not known."""
    mode: Literal["train", "infer"] = "train"
    dtype: str = "float32"
    world_size: int = 1
    deterministic: bool = False
    simulate: bool = False


@dataclass(frozen=True)
class KernelRequest:
    """One use of a replaceable operator, as far as the choice of a kernel may depend on it."""

    dtype: str
    head_dim: int | None = None
    causal: bool = False
    windowed: bool = False
    packed: bool = False
    training: bool = False
    size_class: str | None = None
    products: str | None = None
    """A narrower dtype that float32 factors shall be rounded to; sums and results stay float32."""


@dataclass(frozen=True)
class Kernel:
    """An implementation of a replaceable operator (docs/operators.md states its contract)."""

    fn: Callable[..., Any]
    name: str
    needs_silicon: bool = False
    """True when `fn` runs only on the real chip, so that a simulated one has to be served otherwise."""
    reason: str = ""


@dataclass(frozen=True)
class NoKernel:
    """The answer of a plugin that has no kernel for a request and says why; the reference runs."""

    reason: str


@dataclass(frozen=True)
class AllocatorPolicy:
    """How Paddle's allocator shall behave: its strategy and the variables that tune it."""

    strategy: str
    """Value of FLAGS_allocator_strategy."""
    reason: str
    knobs: Mapping[str, Decision] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """One check of `mix-core doctor`, run in a child process after activation.

    `run` returns one line that says what was seen, and raises when the device is not usable.
    """

    name: str
    run: Callable[[], str]
    needs_device: bool = True
    """False: it looks at the machine only, and runs before activation and also where the device is absent."""
