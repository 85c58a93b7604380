"""What a chip makes of the kernels that a program has called: its table of operators decides, no hardware.

A kernel is one of Paddle's, gradients are kernels too, and each call has one dtype. Paddle runs what the chip
lacks on the CPU, with copies there and back, and stops where the CPU has no kernel of that dtype either.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from mix_core.device.audit_advice import advise

Verdict = Literal["stops", "black-listed", "falls back", "native"]
VERDICTS: tuple[Verdict, ...] = ("stops", "black-listed", "falls back", "native")
"""The worst first."""


@dataclass(frozen=True)
class Called:
    """A kernel of one dtype as a program used it."""

    kernel: str
    dtype: str
    calls: int
    bytes: int
    """Inputs and outputs of all calls."""


@dataclass(frozen=True)
class Chip:
    """What decides where a kernel runs."""

    table: Mapping[str, Iterable[str]] | None
    """Kernel to dtypes; None: everything."""
    black_list: Set[str] = frozenset()
    """Kernels that are sent to the CPU on purpose."""
    everywhere: Mapping[str, Iterable[str]] = field(default_factory=dict)
    """Kernels that Paddle itself brings for every device."""
    cpu: Mapping[str, Iterable[str]] = field(default_factory=dict)
    """The CPU's kernels."""

    def dtypes(self, kernel: str) -> set[str]:
        return {*(self.table or {}).get(kernel, ()), *self.everywhere.get(kernel, ())}

    def verdict(self, kernel: str, dtype: str) -> Verdict:
        listed = kernel in self.black_list
        if not listed and (self.table is None or dtype in self.dtypes(kernel)):
            return "native"
        if dtype not in self.cpu.get(kernel, ()):
            return "stops"
        return "black-listed" if listed else "falls back"


@dataclass(frozen=True)
class Row:
    """One line of an audit."""

    kernel: str
    dtype: str
    verdict: Verdict
    missing: Literal["kernel", "dtype"] | None
    """What the chip's table lacks: the kernel, or only this dtype of it."""
    calls: int
    bytes: int
    """Inputs and outputs of all calls; what falls back moves them all."""
    advice: str
    """What to do; empty for a native kernel."""


@dataclass(frozen=True)
class Audit:
    """All kernels that a program called, the worst first."""

    rows: tuple[Row, ...]

    @property
    def gaps(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.verdict != "native")

    @property
    def moved_bytes(self) -> int:
        """What goes to the host and back because the chip does not compute it."""
        return sum(row.bytes for row in self.rows if row.verdict in ("black-listed", "falls back"))

    def count(self, verdict: Verdict) -> int:
        return sum(row.verdict == verdict for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        return {
            "counts": {verdict: self.count(verdict) for verdict in VERDICTS},
            "moved_bytes": self.moved_bytes,
            "kernels": [asdict(row) for row in self.rows],
        }


def judge(called: Iterable[Called], chip: Chip) -> Audit:
    """Say of each kernel where the chip would run it; the same kernel and dtype again adds up."""
    sums: dict[tuple[str, str], list[int]] = {}
    for one in called:
        total = sums.setdefault((one.kernel, one.dtype), [0, 0])
        total[0] += one.calls
        total[1] += one.bytes
    rows = [_row(chip, kernel, dtype, *total) for (kernel, dtype), total in sums.items()]
    rows.sort(key=lambda row: (VERDICTS.index(row.verdict), -row.bytes, row.kernel, row.dtype))
    return Audit(tuple(rows))


def _row(chip: Chip, kernel: str, dtype: str, calls: int, size: int) -> Row:
    verdict = chip.verdict(kernel, dtype)
    has = chip.dtypes(kernel)
    missing: Literal["kernel", "dtype"] | None = None
    if chip.table is not None and dtype not in has:
        missing = "dtype" if has else "kernel"
    advice = "" if verdict == "native" else advise(kernel, dtype, has, kernel in chip.black_list)
    return Row(kernel, dtype, verdict, missing, calls, size, advice)
