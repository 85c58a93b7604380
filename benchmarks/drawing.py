"""Pictures of what a benchmark measured, as SVG."""

from __future__ import annotations

import html
from collections.abc import Sequence


def page(width: int, height: float, parts: Sequence[str]) -> str:
    """A white picture of these elements, in pixels."""
    size = f'width="{width}" height="{height:.0f}" viewBox="0 0 {width} {height:.0f}"'
    first = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="13">'
    white = f'<rect width="{width}" height="{height:.0f}" fill="white"/>'
    return "\n".join([first, white, *parts, "</svg>"]) + "\n"


def text(x: float, y: float, words: str, *, anchor: str = "start", fill: str = "black") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}">{html.escape(words)}</text>'


def bar(x: float, y: float, width: float, height: float, fill: str, *, title: str, shade: str = "") -> str:
    """A rectangle that says `title` under the pointer; `shade`: more of its attributes."""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.3):.1f}" height="{height:.1f}" fill="{fill}"'
        f'{shade} stroke="white" stroke-width="0.6"><title>{html.escape(title)}</title></rect>'
    )
