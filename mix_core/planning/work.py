"""What one pass of a training step computes, in which number types, and by which kind of kernels.

Shapes: T tokens of a pass, P patches of its pictures, R tokens with a label.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mix_core.models.outline import Outline


@dataclass(frozen=True)
class Work:
    """The samples of one pass on one device."""

    tokens: int
    """T, padding included: it is computed too."""
    spans: tuple[tuple[int, int], ...]
    """(length, how many) of the rows or packed segments within which tokens see each other."""
    labels: int
    """R."""
    patches: int = 0
    """P."""
    patch_spans: tuple[tuple[int, int], ...] = ()
    """(length, how many) of the frames or tiles within which patches see each other."""

    @property
    def token_pairs(self) -> int:
        """Pairs of a token and one that it sees, itself included."""
        return sum(count * length * (length + 1) // 2 for length, count in self.spans)

    @property
    def patch_pairs(self) -> int:
        return sum(count * length * length for length, count in self.patch_spans)


def rows_of(outline: Outline, sequence: int, rows: int, tiles: float) -> Work:
    """Full rows of `sequence` tokens, each with so many picture tiles; every token carries a label."""
    pictures = round(rows * tiles)
    return Work(
        tokens=sequence * rows,
        spans=((sequence, rows),),
        labels=max(1, sequence * rows - pictures * outline.tile_tokens),
        patches=pictures * outline.tile_patches,
        patch_spans=((outline.tile_patches, pictures),) if pictures else (),
    )


@dataclass(frozen=True)
class Numbers:
    """Bytes of a number, by what it is (docs/precision.md)."""

    weight: int = 4
    """A parameter while it trains."""
    product: int = 4
    """What matrix products take and give."""
    stream: int = 4
    """The residual stream and the norms."""

    @classmethod
    def of(cls, dtype: str, level: str) -> Numbers:
        """Of the keys `dtype` and `fp16_opt_level`."""
        if dtype == "float32":
            return cls()
        return cls(2, 2, 2) if level == "O2" else cls(4, 2, 4)

    @property
    def casts(self) -> bool:
        """Whether products get copies of wider tensors, which stay for the backward pass (O1)."""
        return self.product < self.stream

    @property
    def has_masters(self) -> bool:
        return self.weight < 4


@dataclass(frozen=True)
class Kernels:
    """Which operators run as one kernel that keeps its inputs and little else; the rest are references."""

    fused: frozenset[str]

    def __contains__(self, op: str) -> bool:
        return op in self.fused

    @classmethod
    def seen(cls, chosen: Mapping[str, str], dtype: str, level: str = "O1") -> Kernels:
        """From a run's record: `op dtype` -> the kernel's name or `reference`. At O1 norms are float32."""
        of_norms = "float32" if level == "O1" else dtype
        fused = set()
        for key, kernel in chosen.items():
            op, _, of = key.partition(" ")
            if kernel != "reference" and of == (of_norms if op.endswith("norm") else dtype):
                fused.add(op)
        return cls(frozenset(fused))


CHIP = Kernels(
    frozenset(
        {
            "attention",
            "attention_packed",
            "rms_norm",
            "add_rms_norm",
            "layer_norm",
            "rotary",
            "swiglu",
            "gelu",
        }
    )
)
"""What the plugins bring on a chip: attention that keeps no scores, norms, rotary, gates."""
