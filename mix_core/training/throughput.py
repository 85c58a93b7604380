"""How fast a run is, against what its devices could do, and where its time goes.

Model flops utilisation is that of Chowdhery et al., "PaLM", 2022, appendix B: operations that the model
needs, pictures included, padding and recomputation left out, over the time and the devices' stated peak.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mix_core.models.common.adapter_files import ADAPTERS
from mix_core.models.outline import PARTS, Outline
from mix_core.planning.flops import forward_flops, work_of
from mix_core.training.freeze import PROJECTOR, TOWER, matching

if TYPE_CHECKING:
    from mix_core.config import RunConfig
    from mix_core.device.profile import DeviceProfile
    from mix_core.training.loop import StepResult

DATA, COMMUNICATION, CHECKPOINT, EVALUATION = "data", "communication", "checkpoint", "evaluation"
KINDS = (COMMUNICATION, DATA, CHECKPOINT, EVALUATION)
_DIGIT_BITS, _DIGITS = 16, 4


class StepClock:
    """Seconds by kind since the last `take`; what no kind claims is computing."""

    def __init__(self, wait: Callable[[], None] | None = None) -> None:
        """`wait`: returns when the device is done, so that communication is not counted with the computing
        queued before it; None where nothing is queued, or nobody is there to communicate with."""
        self.wait = wait
        self._seconds = dict.fromkeys(KINDS, 0.0)

    @contextmanager
    def of(self, kind: str) -> Iterator[None]:
        """Count the time within as this kind's."""
        wait = self.wait if kind == COMMUNICATION and self.wait is not None else _nothing
        wait()
        started = time.perf_counter()
        try:
            yield
            wait()
        finally:
            self._seconds[kind] += time.perf_counter() - started

    def wait_for_device(self) -> None:
        """Until all that is queued is done, where anything is."""
        if self.wait is not None:
            self.wait()

    def spent(self, kind: str) -> float:
        """Seconds of this kind so far."""
        return self._seconds[kind]

    def take(self) -> dict[str, float]:
        """The seconds so far, and begin anew."""
        taken, self._seconds = self._seconds, dict.fromkeys(KINDS, 0.0)
        return taken


def _nothing() -> None:
    """In place of a wait."""


@dataclass(frozen=True)
class Counted:
    """What the passes of a step consist of."""

    samples: int = 0
    places: int = 0
    """Tokens with padding."""
    flops: int = 0
    """Of the model, forward and backward."""

    def digits(self) -> list[int]:
        """Whole numbers small enough to be summed over many ranks in 32 bits each."""
        return [
            self.samples,
            self.places,
            *(self.flops >> _DIGIT_BITS * place & (1 << _DIGIT_BITS) - 1 for place in range(_DIGITS)),
        ]

    @classmethod
    def summed(cls, digits: Sequence[int]) -> Counted:
        """From `digits` summed over ranks."""
        samples, places, *parts = digits
        return cls(samples, places, sum(part << _DIGIT_BITS * place for place, part in enumerate(parts)))


NOTHING = Counted()


class Counter:
    """Counts a step's passes. Without an outline (a family that gives none) there are no flops."""

    def __init__(
        self, outline: Outline | None, learns: Mapping[str, bool] | None = None, adapters: bool = False
    ) -> None:
        """`learns`: by part of the model; `adapters`: whether the decoder has any that learn."""
        self.outline, self.learns, self.adapters = outline, learns or {}, adapters

    def count(self, passes: Iterable[Mapping[str, Any]]) -> Counted:
        samples = places = flops = 0
        for batch in passes:
            rows, length = batch["input_ids"].shape
            ends = batch.get("cu_seqlens")
            samples += rows if ends is None else len(ends) - 1
            places += rows * length
            if self.outline is not None:
                forward = forward_flops(self.outline, work_of(self.outline, batch))
                flops += int(forward.training(self.learns, adapters=self.adapters))
        return Counted(samples, places, flops)


def parts_that_learn(published: Iterable[str]) -> tuple[dict[str, bool], bool]:
    """From learning parameters' published names: which parts of a model learn, and whether adapters do."""
    names = set(published)
    adapters = {name for name in names if ADAPTERS in name}
    names -= adapters
    projector = matching(names, PROJECTOR)
    tower = matching(names, TOWER) - projector
    found = {"tower": tower, "projector": projector, "decoder": names - tower - projector}
    return {part: bool(found[part]) for part in PARTS}, bool(adapters)


def peak_of(config: RunConfig, profile: DeviceProfile, dtype: str, ranks: int) -> float | None:
    """Of all devices: the configuration's figure, else the profile's; None where neither states one."""
    stated = profile.peak_flops.get(dtype)
    if config.peak_tflops is not None:
        return config.peak_tflops * 1e12 * ranks
    return None if stated is None else stated.value * ranks


class Throughput:
    """Sums over the steps of this process.

    Args:
        peak_flops: of all devices together, in the run's dtype; None where nobody states it.
    """

    def __init__(self, peak_flops: float | None) -> None:
        self.peak_flops = peak_flops
        self.tokens = self.samples = self.places = self.flops = 0
        self.seconds = dict.fromkeys(("compute", *KINDS), 0.0)
        self._unwritten_s = 0.0
        """Of checkpoints since the last line of metrics."""

    def add(self, result: StepResult) -> dict[str, float]:
        """Take a step in -> its values for metrics.jsonl."""
        counted, step_s = result.counted, result.step_ms / 1e3
        communication_s, data_s = result.communication_ms / 1e3, result.data_ms / 1e3
        self.tokens += result.tokens
        self.samples += counted.samples
        self.places += counted.places
        self.flops += counted.flops
        compute_s = max(0.0, step_s - communication_s - data_s)
        self.seconds["compute"] += compute_s
        self.seconds[COMMUNICATION] += communication_s
        self.seconds[DATA] += data_s
        values = {
            "samples_per_s": counted.samples / step_s,
            "padding": _padding(result.tokens, counted.places),
        }
        values |= self._rates(counted.flops, step_s)
        values |= {"compute_ms": compute_s * 1e3, "communication_ms": result.communication_ms}
        values["checkpoint_ms"], self._unwritten_s = self._unwritten_s * 1e3, 0.0
        return values

    def add_between(self, taken: Mapping[str, float]) -> None:
        """Take in what was done between two steps."""
        self.seconds[CHECKPOINT] += taken[CHECKPOINT]
        self.seconds[EVALUATION] += taken[EVALUATION]
        self._unwritten_s += taken[CHECKPOINT]

    def summary(self) -> dict[str, Any]:
        """Of the whole process: rates over its steps, and shares of all its time."""
        steps_s = sum(self.seconds[kind] for kind in ("compute", COMMUNICATION, DATA))
        if not steps_s:
            return {}
        everything = sum(self.seconds.values())
        return {
            "tokens_per_s": self.tokens / steps_s,
            "samples_per_s": self.samples / steps_s,
            "padding": _padding(self.tokens, self.places),
            **self._rates(self.flops, steps_s),
            "peak_flops": self.peak_flops,
            "seconds": dict(self.seconds),
            "shares": {kind: seconds / everything for kind, seconds in self.seconds.items()},
        }

    def _rates(self, flops: int, seconds: float) -> dict[str, float]:
        """Model flop/s in 10^12, and the utilisation where the peak is known."""
        if not flops:
            return {}
        per_s = flops / seconds
        return {"tflops": per_s / 1e12} | ({"mfu": per_s / self.peak_flops} if self.peak_flops else {})


def _padding(tokens: int, places: int) -> float:
    return 1 - tokens / places if places else 0.0


def in_words(summary: Mapping[str, Any]) -> str:
    """`12,345 tokens/s, 96.1 samples/s, mfu 41.2 %, padding 3 %; compute 91 %, data 6 %, checkpoint 3 %`."""
    rates = [f"{summary['tokens_per_s']:,.0f} tokens/s", f"{summary['samples_per_s']:.3g} samples/s"]
    if "tflops" in summary:
        rates.append(f"{summary['tflops']:.3g} Tflop/s")
    if "mfu" in summary:
        rates.append(f"mfu {100 * summary['mfu']:.1f} %")
    rates.append(f"padding {100 * summary['padding']:.0f} %")
    shares = [
        f"{kind} {100 * share:.0f} %"
        for kind, share in summary["shares"].items()
        if share >= 0.005 or kind == DATA
    ]
    return f"{', '.join(rates)}; {', '.join(shares)}"
