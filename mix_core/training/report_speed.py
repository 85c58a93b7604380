"""How fast a run was and where its time went, as a part of the report."""

from __future__ import annotations

from html import escape
from typing import Any

from mix_core.training.report_view import RunView, duration, is_number, number, share

WORDS = {
    "compute": "forward and backward passes, update",
    "communication": "sums over devices, waiting for the others included",
    "data": "waiting for samples",
    "checkpoint": "writing checkpoints",
    "evaluation": "held-out rows during training",
}


def speed_text(run: RunView) -> str:
    """Rates for the head of the page; "" where the run measured none."""
    found = run.section("throughput")
    parts = [
        f"{form(found[name])} {unit}" if unit != "mfu" else f"mfu {form(found[name])}"
        for name, unit, form in (
            ("tokens_per_s", "tokens/s", lambda value: f"{value:,.0f}"),
            ("samples_per_s", "samples/s", number),
            ("mfu", "mfu", share),
        )
        if is_number(found.get(name))
    ]
    return " · ".join(parts)


def speed_html(run: RunView) -> str:
    """A table: share of the run's time by what it went into, then use of the device and padding."""
    found = run.section("throughput")
    seconds, shares = run.section("throughput", "seconds"), run.section("throughput", "shares")
    rows = [
        _row(kind, f"{share(shares[kind])} · {duration(seconds[kind])}", words, shares[kind])
        for kind, words in WORDS.items()
        if is_number(shares.get(kind)) and is_number(seconds.get(kind)) and seconds[kind] > 0
    ]
    if is_number(found.get("mfu")) and is_number(found.get("peak_flops")):
        peak = f"of {number(found['peak_flops'] / 1e12)} Tflop/s, the devices' stated peak"
        rows.append(_row("model flops utilisation", share(found["mfu"]), peak, found["mfu"]))
    elif is_number(found.get("tflops")):
        meaning = "operations of the model; the device states no peak (peak_tflops does)"
        rows.append(_row("model flop/s", f"{number(found['tflops'])} Tflop/s", meaning, None))
    if is_number(found.get("padding")):
        rows.append(_row("padding", share(found["padding"]), "of the places computed", found["padding"]))
    return f'<table class="results"><tbody>{"".join(rows)}</tbody></table>' if rows else ""


def _row(name: str, value: str, meaning: str, part: Any) -> str:
    bar = ""
    if part is not None:
        bar = f'<div class="bar"><i style="width:{100 * min(max(part, 0), 1):.1f}%"></i></div>'
    return (
        f'<tr><th scope="row">{escape(name)}</th><td class="value">{escape(value)}</td>'
        f'<td class="meaning">{bar}<span class="hint">{escape(meaning)}</span></td></tr>'
    )
