"""Line charts as SVG text: axes with ticks, a raw and a smoothed line, values to hover over.

No plotting library: the text is small, sharp at any size and takes its colours from the page. Places are
percentages of the plot, so that one chart fits every screen while its text keeps its size.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

Point = tuple[float, float]
"""(step, value)."""

DRAWN_BUCKETS = 300
"""A longer line is drawn with the least and the greatest value of so many equal parts."""
HOVER_POINTS = 300
LOG_SPAN = 30
"""Values that span more than this factor are drawn on a logarithmic axis, where the chart allows it."""

LABEL_PERCENT = 13
"""Room for the word under the beginning of the horizontal axis."""
SIDE = 1000
"""Lines are drawn in a square of this side, which the page stretches over the plot."""


@dataclass(frozen=True)
class Line:
    """One line of a chart; `style` is its class in the style sheet."""

    name: str
    points: Sequence[Point]
    style: str


@dataclass(frozen=True)
class Scale:
    """Values to percentages of an axis."""

    low: float
    high: float
    log: bool = False
    down: bool = False
    """Whether the highest value is at 0 %, as on a page."""

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, self.low))
        share = (value - low) / (high - low) if high > low else 0.5
        return 100 * (1 - share if self.down else share)


def smoothed(points: Sequence[Point], half_life: float) -> list[Point]:
    """An exponential moving average in both directions, which does not lag behind the values.

    Farther than `half_life` points away a value counts less than half.
    """
    forward = _average([value for _, value in points], half_life)
    both = _average(forward[::-1], half_life)[::-1]
    return [(step, value) for (step, _), value in zip(points, both)]


def _average(values: list[float], half_life: float) -> list[float]:
    keep = 0.5 ** (1 / max(half_life, 1e-9))
    total = weight = 0.0
    out = []
    for value in values:
        total, weight = total * keep + value, weight * keep + 1
        out.append(total / weight)
    return out


def reduced(points: Sequence[Point], buckets: int = DRAWN_BUCKETS) -> list[Point]:
    """At most two points for each bucket, its least and its greatest: what the eye sees of the full line."""
    if len(points) <= 2 * buckets:
        return list(points)
    out: list[Point] = []
    for i in range(buckets):
        part = points[i * len(points) // buckets : (i + 1) * len(points) // buckets]
        ends = {min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])}
        out += sorted(ends)
    return out


def linear_ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round values (1, 2 or 5 times a power of ten) that enclose [low, high]."""
    if not high > low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten that enclose [low, high]; over more than 3 decades the powers alone."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    factors = (1,) if last - first > 3 else (1, 2, 5)
    values = [float(f"{m * 10.0**e:.12g}") for e in range(first, last + 1) for m in factors]
    start = max((i for i, v in enumerate(values) if v <= low), default=0)
    end = min((i for i, v in enumerate(values) if v >= high), default=len(values) - 1)
    return values[start : end + 1]


def chart(
    lines: Sequence[Line],
    *,
    label: str,
    form: Callable[[float], str],
    from_zero: bool = False,
    log: bool = False,
) -> str:
    """A plot that fills the width it is given.

    Args:
        label: what a screen reader says.
        form: value -> text of a tick or a hovered value.
        from_zero: whether the axis begins at 0.
        log: whether the axis is logarithmic; see `wants_log`.
    """
    points = [point for line in lines for point in line.points]
    values = [value for _, value in points]
    low, high = min(values), max(values)
    ticks = log_ticks(low, high) if log else linear_ticks(0.0 if from_zero and low > 0 else low, high, 5)
    y = Scale(ticks[0], ticks[-1], log, down=True)
    x = Scale(min(step for step, _ in points), max(step for step, _ in points))
    parts = []
    for tick in ticks:
        parts.append(f'<line class="grid" x2="100%" y1="{y(tick):.2f}%" y2="{y(tick):.2f}%"/>')
        parts.append(f'<text class="y" x="-10" y="{y(tick):.2f}%" dy="4">{escape(form(tick))}</text>')
    parts.append('<text class="x first" y="100%" dy="20">step</text>')
    for tick in linear_ticks(x.low, x.high, 7):
        if x(tick) >= LABEL_PERCENT and tick <= x.high and tick == int(tick):
            parts.append(f'<text class="x" x="{x(tick):.2f}%" y="100%" dy="20">{int(tick):,}</text>')
    drawn = "".join(_path(line, x, y) for line in lines)
    return (
        f'<div class="plot"><svg role="img" aria-label="{escape(label)}" '
        f'data-hover="{escape(_hover(lines, x, y, form))}">{"".join(parts)}'
        f'<svg class="lines" viewBox="0 0 {SIDE} {SIDE}" preserveAspectRatio="none">{drawn}</svg>'
        '<g class="cursor"><line y2="100%"/></g></svg></div>'
    )


def wants_log(lines: Sequence[Line]) -> bool:
    """Whether the values span so much that a linear axis would hide the smaller ones."""
    values = [value for line in lines for _, value in line.points]
    return bool(values) and min(values) > 0 and max(values) / min(values) > LOG_SPAN


def _path(line: Line, x: Scale, y: Scale) -> str:
    places = [
        f"{x(step) * SIDE / 100:.1f} {y(value) * SIDE / 100:.1f}" for step, value in reduced(line.points)
    ]
    if len(places) == 1:  # a line to where it begins is a dot
        return f'<path class="{line.style} dot" d="M{places[0]}L{places[0]}"/>'
    return f'<path class="{line.style}" d="M{"L".join(places)}"/>' if places else ""


def _hover(lines: Sequence[Line], x: Scale, y: Scale, form: Callable[[float], str]) -> str:
    """What the page's script needs: places and texts of at most HOVER_POINTS steps of each line."""
    found = []
    for line in lines:
        stride = max(1, math.ceil(len(line.points) / HOVER_POINTS))
        kept = list(line.points[::stride])
        if line.points and kept[-1] != line.points[-1]:
            kept.append(line.points[-1])
        found.append(
            {
                "name": line.name,
                "style": line.style,
                "x": [round(x(step), 2) for step, _ in kept],
                "y": [round(y(value), 2) for _, value in kept],
                "step": [int(step) for step, _ in kept],
                "text": [form(value) for _, value in kept],
            }
        )
    return json.dumps(found, separators=(",", ":"))
