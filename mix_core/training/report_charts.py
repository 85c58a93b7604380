"""Which curves the report shows, and in which units."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from mix_core.training.report_chart import Line, Point, chart, smoothed, wants_log
from mix_core.training.report_view import RunView, memory_unit, number, share

SMOOTH_PART = 100
"""A smoothed line forgets half within this part of the run."""
SUMMARIES: dict[str, Callable[[list[float]], float]] = {
    "last": lambda values: values[-1],
    "median": statistics.median_high,
    "peak": max,
}
EVAL_STYLES = ("series-1", "series-2", "series-3", "series-4")


@dataclass(frozen=True)
class Figure:
    """A chart with its title."""

    title: str
    unit: str
    lines: Sequence[Line]
    form: Callable[[float], str]
    from_zero: bool = False
    may_be_log: bool = False
    is_wide: bool = False
    word: str = "last"
    """Of SUMMARIES: what stands in the chart's corner while nothing is hovered."""

    @property
    def summary(self) -> str:
        values = [value for _, value in next(line for line in reversed(self.lines) if line.points).points]
        return f"{self.word} {self.form(SUMMARIES[self.word](values))}" if len(self.lines) < 3 else ""


def charts_html(run: RunView) -> str:
    """All curves that the run has values for; "" for none."""
    figures = [figure for figure in _figures(run) if any(line.points for line in figure.lines)]
    return f'<div class="charts">{"".join(map(_figure_html, figures))}</div>' if figures else ""


def _figures(run: RunView) -> list[Figure]:
    loss, memory = run.points("loss"), run.points("memory_bytes")
    unit_bytes, unit = memory_unit(max((value for _, value in memory), default=0.0))
    speed = run.points("tokens_per_s")
    figures = [
        Figure("Loss", "per label token", _with_smooth(loss), number, may_be_log=True, is_wide=True),
        Figure(
            "Learning rate",
            "per step",
            [Line("learning rate", run.points("learning_rate"), "main")],
            number,
            from_zero=True,
            word="peak",
        ),
        Figure("Speed", "tokens/s", _with_smooth(speed), _short, from_zero=True, word="median"),
        Figure(
            "Model flops utilisation",
            "share of the stated peak",
            _with_smooth(run.points("mfu")),
            share,
            from_zero=True,
            word="median",
        ),
        Figure(
            "Memory",
            unit,
            [Line("memory", [(step, value / unit_bytes) for step, value in memory], "main")],
            number,
            from_zero=True,
            word="peak",
        ),
        Figure(
            "Gradient norm",
            "before clipping",
            _with_smooth(run.points("grad_norm")),
            number,
            may_be_log=True,
            word="median",
        ),
    ]
    names = run.names("eval_")
    shares = [name for name in names if name.endswith(("exact", "iou"))]
    lines = [
        Line(name.removeprefix("eval_"), run.points(name), style) for name, style in zip(shares, EVAL_STYLES)
    ]
    figures.append(Figure("Held-out scores", "share, or IoU", lines, share, from_zero=True))
    figures.append(
        Figure("Held-out loss", "per label token", [Line("loss", run.points("eval_loss"), "main")], number)
    )
    return figures


def _with_smooth(points: list[Point]) -> list[Line]:
    """The line as measured, faint, and a smooth one over it."""
    if len(points) < 10:
        return [Line("measured", points, "main")]
    return [
        Line("measured", points, "raw"),
        Line("smoothed", smoothed(points, len(points) / SMOOTH_PART), "main"),
    ]


def _figure_html(figure: Figure) -> str:
    lines = [line for line in figure.lines if line.points]
    log = figure.may_be_log and wants_log(lines)
    (first_step, first), (last_step, last) = lines[-1].points[0], lines[-1].points[-1]
    label = (
        f"{figure.title}, {figure.unit}: from {figure.form(first)} at step {first_step:.0f} "
        f"to {figure.form(last)} at step {last_step:.0f}"
    )
    keys = "".join(f'<span class="key {line.style}"></span>{escape(line.name)}' for line in lines)
    legend = f'<p class="legend">{keys}</p>' if len(lines) > 1 else ""
    rest = escape(figure.summary)
    unit = f"{figure.unit}, logarithmic" if log else figure.unit
    plot = chart(lines, label=label, form=figure.form, from_zero=figure.from_zero, log=log)
    return (
        f'<figure class="chart{" wide" if figure.is_wide else ""}"><figcaption><b>{escape(figure.title)}</b>'
        f'<span class="unit">{escape(unit)}</span><output data-rest="{rest}">{rest}</output></figcaption>'
        f"{plot}{legend}</figure>"
    )


def _short(value: float) -> str:
    """12,345 -> 12.3k."""
    return f"{value / 1000:.3g}k" if abs(value) >= 1000 else number(value)
