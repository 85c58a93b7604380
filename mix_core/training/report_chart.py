"""Line charts as SVG text: axes with units and ticks, a raw and a smoothed line, values to hover over.

No plotting library: the text is small, sharp at any size and takes its colours from the page.
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

MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 52, 12, 10, 30


@dataclass(frozen=True)
class Line:
    """One line of a chart; `style` is its class in the style sheet."""

    name: str
    points: Sequence[Point]
    style: str


@dataclass(frozen=True)
class Scale:
    """Values to pixels."""

    low: float
    high: float
    start_px: float
    end_px: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = (math.log10(self.low), math.log10(self.high)) if self.log else (self.low, self.high)
        value = math.log10(max(value, self.low)) if self.log else value
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start_px + share * (self.end_px - self.start_px)


def smoothed(points: Sequence[Point], half_life: float) -> list[Point]:
    """Exponential moving average, unbiased at its start; after `half_life` points a value counts half."""
    keep = 0.5 ** (1 / max(half_life, 1e-9))
    total = weight = 0.0
    out = []
    for step, value in points:
        total, weight = total * keep + value, weight * keep + 1
        out.append((step, total / weight))
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
    width: int,
    height: int,
    form: Callable[[float], str],
    from_zero: bool = False,
    may_be_log: bool = False,
    css_class: str = "",
) -> str:
    """An SVG element.

    Args:
        label: what a screen reader says.
        form: value -> text of a tick or a hovered value.
        from_zero: whether the axis begins at 0.
    """
    points = [point for line in lines for point in line.points]
    if not points:
        return ""
    values = [value for _, value in points]
    low, high = min(values), max(values)
    log = may_be_log and low > 0 and high / low > LOG_SPAN
    ticks = log_ticks(low, high) if log else linear_ticks(0.0 if from_zero and low > 0 else low, high, 5)
    y = Scale(ticks[0], ticks[-1], height - MARGIN_BOTTOM, MARGIN_TOP, log)
    steps = [step for step, _ in points]
    x = Scale(min(steps), max(steps), MARGIN_LEFT, width - MARGIN_RIGHT)
    parts = [
        f'<svg class="{escape(css_class)}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(label)}" data-hover="{escape(_hover(lines, x, y, form))}">'
    ]
    for tick in ticks:
        at = y(tick)
        parts.append(
            f'<line class="grid" x1="{MARGIN_LEFT}" x2="{width - MARGIN_RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
        )
        parts.append(
            f'<text class="tick" x="{MARGIN_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">'
            f"{escape(form(tick))}</text>"
        )
    for tick in linear_ticks(x.low, x.high, max(3, width // 110)):
        if x.low <= tick <= x.high and tick == int(tick):
            anchor = "end" if x(tick) > width - MARGIN_RIGHT - 16 else "middle"
            parts.append(
                f'<text class="tick" x="{x(tick):.1f}" y="{height - 10}" text-anchor="{anchor}">'
                f"{int(tick):,}</text>"
            )
    parts += [_path(line, x, y) for line in lines]
    parts.append(
        f'<g class="cursor" hidden><line y1="{MARGIN_TOP}" y2="{height - MARGIN_BOTTOM}"/></g></svg>'
    )
    return "".join(parts)


def _path(line: Line, x: Scale, y: Scale) -> str:
    drawn = [f"{x(step):.1f},{y(value):.1f}" for step, value in reduced(line.points)]
    if len(drawn) == 1:
        cx, cy = drawn[0].split(",")
        return f'<circle class="dot {line.style}" cx="{cx}" cy="{cy}" r="3"/>'
    return f'<path class="line {line.style}" d="M{"L".join(drawn)}"/>'


def _hover(lines: Sequence[Line], x: Scale, y: Scale, form: Callable[[float], str]) -> str:
    """What the page's script needs: pixel places and texts of at most HOVER_POINTS steps of each line."""
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
                "x": [round(x(step), 1) for step, _ in kept],
                "y": [round(y(value), 1) for _, value in kept],
                "step": [int(step) for step, _ in kept],
                "text": [form(value) for _, value in kept],
            }
        )
    return json.dumps(found, separators=(",", ":"))
