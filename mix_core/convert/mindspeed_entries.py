"""What a weight of Megatron's layout is made of, and how tensor-parallel ranks share it.

The layout joins matrices: gate above up in `linear_fc1`; queries, keys and values in `linear_qkv`, group by
group (the queries that share a key head, that key head, its value head), where published layouts have them
one below the other. Ranks take rows of what is multiplied first, columns of what is multiplied after it; of
matrices that stand one below the other in one weight each rank takes its part of each.

Forms and shares: MindSpeed-MM's mm-convert (checkpoint/vlm_model/operator.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mix_core.convert.shapes import Shapes

Form = Literal["same", "stacked", "grouped", "regrouped"]
"""same: one published weight. stacked: the parts one below the other. grouped: queries, keys and values of
a group together. regrouped: so as well, of one published weight that holds all queries, then keys, then
values."""


@dataclass(frozen=True)
class Share:
    """What each rank holds of a weight."""

    axis: int | None = None
    """Along which it is cut; None: each rank holds all of it."""
    blocks: int = 1
    """Equal parts along the axis, each of which is cut."""
    groups: int | None = None
    """Equal pieces of a block that stay whole; None: each row or column is one."""
    uneven: bool = False
    """Whether the first ranks may hold one piece more than the others."""

    def sizes(self, size: int, ranks: int) -> list[int]:
        """Rows or columns of a block of `size` that each rank holds."""
        pieces = self.groups or size
        return [(pieces // ranks + (rank < pieces % ranks)) * (size // pieces) for rank in range(ranks)]

    def fits(self, size: int, ranks: int) -> bool:
        """Whether a weight with `size` rows or columns can be cut for so many ranks."""
        pieces = self.groups or size // self.blocks
        return self.axis is None or (pieces >= ranks if self.uneven else pieces % ranks == 0)


WHOLE, ROWS, COLUMNS = Share(), Share(0), Share(1)


@dataclass(frozen=True)
class Entry:
    """One weight of theirs; `{}` in names stands for the layer."""

    name: str
    parts: tuple[str, ...]
    """Published names."""
    form: Form = "same"
    share: Share = WHOLE
    axes: int = 0
    """Axes of length one that theirs has before the published ones."""

    def sources(self, layer: int | None) -> list[str]:
        """The published names of its parts in a layer."""
        return [part.format(layer) for part in self.parts]


@dataclass(frozen=True)
class Tower:
    """A stack of layers that a pipeline is cut through."""

    kind: str
    """As the lists of a pipeline are called: vit, llm."""
    layer_prefix: str
    """What comes before a layer's number in their names."""
    layers: int
    first: tuple[Entry, ...]
    """Weights on the stage of the first layer."""
    layer: tuple[Entry, ...]
    """Weights of each layer, named after `layer_prefix` and number."""
    last: tuple[Entry, ...]
    """Weights on the stage of the last layer."""


def weight_and_bias(
    name: str, parts: Iterable[str], form: Form = "same", share: Share = WHOLE
) -> tuple[Entry, Entry]:
    """A map or norm; the bias of one that is cut into columns is whole on each rank."""
    parts = tuple(parts)
    of_bias = WHOLE if share.axis == 1 else share
    return (
        Entry(f"{name}.weight", tuple(f"{part}.weight" for part in parts), form, share),
        Entry(f"{name}.bias", tuple(f"{part}.bias" for part in parts), form, of_bias),
    )


def of_model(entries: Iterable[Entry], shapes: Shapes) -> tuple[Entry, ...]:
    """The entries whose published weights a model has: biases, norms of queries and such are not in all."""
    return tuple(entry for entry in entries if all(name in shapes for name in entry.sources(0)))


def join(entry: Entry, parts: Sequence[np.ndarray]) -> np.ndarray:
    """Their weight of the published ones."""
    if entry.form == "same":
        return parts[0].reshape((1,) * entry.axes + parts[0].shape)
    if entry.form == "stacked":
        return np.concatenate(parts)
    groups = _groups(entry)
    each = np.split(parts[0], 3) if entry.form == "regrouped" else parts
    grouped = [one.reshape(groups, -1, *one.shape[1:]) for one in each]
    joined = np.concatenate(grouped, axis=1)
    return joined.reshape(-1, *joined.shape[2:])


def part_of(entry: Entry, joined: np.ndarray, place: int, rows: Sequence[int]) -> np.ndarray:
    """The published weight `parts[place]` of theirs. `rows`: of each part (of a regrouped one, its three)."""
    if entry.form == "same":
        return joined.reshape(joined.shape[entry.axes :])
    if entry.form == "stacked":
        end = sum(rows[: place + 1])
        return joined[end - rows[place] : end]
    groups = _groups(entry)
    grouped = joined.reshape(groups, -1, *joined.shape[1:])
    within = np.cumsum([n // groups for n in rows])[:-1]
    each = [one.reshape(-1, *joined.shape[1:]) for one in np.split(grouped, within, axis=1)]
    return np.concatenate(each) if entry.form == "regrouped" else each[place]


def _groups(entry: Entry) -> int:
    assert entry.share.groups is not None, f"{entry.name} is grouped and names no groups"
    return entry.share.groups


def divide(share: Share, whole: np.ndarray, ranks: int) -> list[np.ndarray]:
    """What each tensor-parallel rank holds."""
    axis = share.axis
    if axis is None or ranks == 1:
        return [whole] * ranks
    blocks = np.split(whole, share.blocks, axis)
    ends = np.cumsum(share.sizes(blocks[0].shape[axis], ranks))[:-1]
    cut = [np.split(block, ends, axis) for block in blocks]
    return [np.concatenate([block[rank] for block in cut], axis) for rank in range(ranks)]


def unite(share: Share, held: Sequence[np.ndarray]) -> np.ndarray:
    """The whole of what each rank holds."""
    axis = share.axis
    if axis is None or len(held) == 1:
        return held[0]
    cut = [np.split(one, share.blocks, axis) for one in held]
    return np.concatenate([blocks[i] for i in range(share.blocks) for blocks in cut], axis)
