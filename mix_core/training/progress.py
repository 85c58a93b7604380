"""What a person sees while a run goes on: a bar on a terminal, plain lines everywhere else.

The bar shows step, loss, speed and the time left. Into a file or a pipe goes one line every `logging_steps`,
without any escape code.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import deque
from collections.abc import Mapping
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

REFRESH_S = 0.1
RECENT_STEPS = 50
WORDS = {"data": "data wait"}
"""Kinds of time that are shown however little they are, in their words."""


def clock(seconds: float) -> str:
    """`75` -> `1:15`, `3675` -> `1:01:15`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _speed(
    tokens_per_s: float | None,
    samples_per_s: float | None,
    mfu: float | None,
    padding: float | None,
    shares: Mapping[str, float],
) -> list[str]:
    parts = []
    if tokens_per_s is not None:
        parts.append(f"{tokens_per_s:,.0f} tokens/s")
    if samples_per_s is not None:
        parts.append(f"{samples_per_s:.3g} samples/s")
    if mfu is not None:
        parts.append(f"mfu {100 * mfu:.1f} %")
    if padding is not None and padding >= 0.005:
        parts.append(f"padding {100 * padding:.0f} %")
    parts += [
        f"{WORDS.get(kind, kind)} {100 * share:.0f} %"
        for kind, share in shares.items()
        if share >= 0.005 or kind in WORDS
    ]
    return parts


class Progress:
    """Shows the steps of a run on `stream` (stderr when None).

    Args:
        total_steps: the step at which the run ends.
        start_step: the last step already done (a resumed run).
        logging_steps: without a terminal, a line is printed every so many steps and at the last one.

    Use as a context manager, or call `close`; `note` prints a line of text without tearing the bar.
    """

    def __init__(
        self,
        total_steps: int,
        *,
        start_step: int = 0,
        logging_steps: int = 10,
        stream: TextIO | None = None,
    ) -> None:
        self.total_steps = total_steps
        self.logging_steps = max(1, logging_steps)
        self.stream = stream if stream is not None else sys.stderr
        self.step = start_step
        self._durations: deque[float] = deque(maxlen=RECENT_STEPS)
        self._spent: deque[Mapping[str, float]] = deque(maxlen=RECENT_STEPS)
        self._last_update = time.monotonic()
        self._last_refresh = 0.0
        self._bar: Bar | None = None
        console = Console(file=self.stream, force_terminal=True) if self._is_terminal() else None
        if console is not None and not console.is_dumb_terminal:
            self._bar = self._start_bar(console, start_step)

    def _is_terminal(self) -> bool:
        # Not rich's own test: it believes FORCE_COLOR, and then escape codes end up in log files.
        return bool(getattr(self.stream, "isatty", lambda: False)())

    def _start_bar(self, console: Console, start_step: int) -> Bar:
        bar = Bar(
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=None, complete_style="cyan", finished_style="cyan"),
            TextColumn("{task.fields[figures]}", markup=False),
            console=console,
            auto_refresh=False,
            expand=True,
        )
        self._task = bar.add_task("train", total=self.total_steps, completed=start_step, figures="")
        bar.start()
        return bar

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the last step, from the median of the recent steps; None before the first step."""
        if not self._durations:
            return None
        return statistics.median(self._durations) * max(0, self.total_steps - self.step)

    def update(
        self,
        step: int,
        *,
        loss: float | None = None,
        tokens_per_s: float | None = None,
        learning_rate: float | None = None,
        samples_per_s: float | None = None,
        mfu: float | None = None,
        padding: float | None = None,
        spent: Mapping[str, float] | None = None,
    ) -> None:
        """Tell that `step` is done. `mfu` and `padding` are shares; below 0.5 % padding is not shown.

        `spent`: the step's time by what it went into, in any unit; shown as shares of the recent steps.
        """
        if spent is not None:
            self._spent.append(spent)
        speed = _speed(tokens_per_s, samples_per_s, mfu, padding, self._shares())
        now = time.monotonic()
        if step > self.step:
            self._durations.append((now - self._last_update) / (step - self.step))
        self.step, self._last_update = step, now
        last = step >= self.total_steps
        if self._bar is not None:
            figures = self._figures(loss, speed, None)
            self._bar.update(self._task, completed=step, figures=figures)
            if last or now - self._last_refresh >= REFRESH_S:
                self._last_refresh = now
                self._bar.refresh()
        elif last or step % self.logging_steps == 0:
            width = len(str(self.total_steps))
            self._print(
                f"step {step:>{width}}/{self.total_steps}  {self._figures(loss, speed, learning_rate)}"
            )

    def _shares(self) -> dict[str, float]:
        """Of the recent steps' time, by kind in the order of the last one."""
        everything = sum(sum(spent.values()) for spent in self._spent)
        if not everything:
            return {}
        kinds = self._spent[-1]
        return {kind: sum(spent.get(kind, 0.0) for spent in self._spent) / everything for kind in kinds}

    def _figures(self, loss: float | None, speed: list[str], learning_rate: float | None) -> str:
        parts = []
        if loss is not None:
            parts.append(f"loss {loss:.4f}")
        if learning_rate is not None:
            parts.append(f"lr {learning_rate:.2e}")
        parts += speed
        if self.seconds_left is not None:
            parts.append(f"{clock(self.seconds_left)} left")
        return "  ".join(parts)

    def pause(self) -> None:
        """Call after work between two steps (evaluation, a checkpoint): its time is no step's time."""
        self._last_update = time.monotonic()

    def note(self, text: str) -> None:
        """Print a line of text, above the bar where there is one."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            self._print(text)

    def _print(self, text: str) -> None:
        print(text, file=self.stream, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.refresh()
            self._bar.stop()
            self._bar = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class PlainStream:
    """stderr without being a terminal, so that progress comes as lines."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()
