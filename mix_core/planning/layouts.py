"""Which ways there are to spread a model over devices, by arithmetic alone, and why others are none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from mix_core.errors import BadInputError
from mix_core.models.outline import Outline
from mix_core.planning.memory import Stage

INTERLEAVES = (1, 2, 4)
"""Pieces of the model on each stage of a pipeline that are tried."""
SHARDINGS = (0, 1, 2, 3)


@dataclass(frozen=True)
class Grid:
    """How the model itself is divided: within a layer, and by layers."""

    tensor: int
    pipeline: int
    interleave: int
    """Pieces that each stage of the pipeline has."""
    stages: tuple[tuple[Stage, ...], ...]
    """The pieces of each stage."""

    @property
    def devices(self) -> int:
        return self.tensor * self.pipeline


@dataclass(frozen=True)
class Layout:
    """Everything about how a run is spread."""

    grid: Grid
    data: int
    """Groups that see other samples and keep the same."""
    sharding: int
    """Devices that see other samples and share out what `stage` says."""
    stage: int
    """0: nothing, 1: the optimizer's state, 2: gradients too, 3: parameters too."""
    micro: int
    """Rows in one pass of one device."""
    passes: int
    """Passes in a step."""
    recompute: str

    @property
    def replicas(self) -> int:
        return self.data * self.sharding


@dataclass(frozen=True)
class Refusal:
    """A layout that cannot be, and why."""

    what: str
    why: str


def divisors(number: int) -> list[int]:
    small = [one for one in range(1, int(number**0.5) + 1) if number % one == 0]
    return sorted({*small, *(number // one for one in small)})


def tensor_degrees(outline: Outline, devices: int, most: int) -> tuple[list[int], list[Refusal]]:
    """Degrees of tensor parallelism that the decoder divides by, up to `most`."""
    decoder = outline.decoder
    sizes = (
        ("heads", decoder.heads),
        ("key/value heads", decoder.kv_heads),
        ("feed-forward numbers", decoder.inner),
    )
    fine: list[int] = []
    refused: list[Refusal] = []
    for degree in divisors(devices):
        if degree > most:
            break
        what, size = next(((name, size) for name, size in sizes if size % degree), ("", 0))
        if size:
            refused.append(Refusal(f"tensor {degree}", f"tensor {degree} does not divide {size} {what}"))
        else:
            fine.append(degree)
    return fine, refused


def grids(
    outline: Outline, devices: int, most_tensor: int, costs: Sequence[float], splits: Splits | None = None
) -> tuple[list[Grid], list[Refusal]]:
    """All divisions of the model over at most `devices`.

    `costs`: of a block of the tower, of one of the decoder, of the head.
    """
    found: list[Grid] = []
    degrees, refused = tensor_degrees(outline, devices, most_tensor)
    layers = outline.tower.layers, outline.decoder.layers
    blocks = sum(layers)
    for tensor in degrees:
        for pipeline in divisors(devices // tensor):
            if splits is not None:
                if pipeline == splits.pipeline:
                    found.append(Grid(tensor, pipeline, 1, splits.stages))
                continue
            if pipeline > blocks:
                refused.append(
                    Refusal(
                        f"pipeline {pipeline}", f"pipeline {pipeline} has more stages than {blocks} blocks"
                    )
                )
                break
            for interleave in INTERLEAVES if pipeline > 1 else (1,):
                if pipeline * interleave > blocks:
                    break
                pieces = balanced(layers, pipeline * interleave, *costs)
                stages = tuple(tuple(pieces[rank::pipeline]) for rank in range(pipeline))
                found.append(Grid(tensor, pipeline, interleave, stages))
    return found, list(dict.fromkeys(refused))


@dataclass(frozen=True)
class Splits:
    """Layers of tower and decoder on each stage, as the user gives them."""

    stages: tuple[tuple[Stage, ...], ...]

    @property
    def pipeline(self) -> int:
        return len(self.stages)


def splits_of(outline: Outline, tower: Sequence[int], decoder: Sequence[int]) -> Splits:
    """Check two lists. Raises BadInputError that names the stage or the sum that is wrong."""
    if len(tower) != len(decoder):
        raise BadInputError(
            f"--vision_split has {len(tower)} stages and --decoder_split {len(decoder)}; give both one for "
            "each stage"
        )
    for option, given, layers in (
        ("--vision_split", tower, outline.tower.layers),
        ("--decoder_split", decoder, outline.decoder.layers),
    ):
        if sum(given) != layers or min(given) < 0:
            raise BadInputError(
                f"{option} {_listed(given)} adds up to {sum(given)}; the model has {layers} layers there"
            )
    last_vision = max(place for place, layers in enumerate(tower) if layers)
    first_text = min(place for place, layers in enumerate(decoder) if layers)
    if first_text < last_vision:
        raise BadInputError(
            f"--vision_split {_listed(tower)} with --decoder_split {_listed(decoder)}: stage {last_vision} "
            f"has vision layers after decoder layers of stage {first_text}; pictures pass the whole tower "
            "first"
        )
    last = len(tower) - 1
    pieces = [
        (Stage(vision, text, place == 0, place == last_vision, place == last),)
        for place, (vision, text) in enumerate(zip(tower, decoder))
    ]
    return Splits(tuple(pieces))


def _listed(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))


@lru_cache(maxsize=512)
def balanced(
    layers: tuple[int, int], pieces: int, tower: float, decoder: float, head: float
) -> tuple[Stage, ...]:
    """Cut the blocks, tower first, into so many runs, the dearest of which costs least.

    `layers` of tower and decoder; `tower`, `decoder`: cost of a block of each; `head`: of the head, which the
    last piece has too.
    """
    costs = [tower] * layers[0] + [decoder] * layers[1]
    costs[-1] += head
    low, high = max(costs), sum(costs)
    for _ in range(50):
        middle = (low + high) / 2
        if _pieces_below(costs, middle) <= pieces:
            high = middle
        else:
            low = middle
    ends = _cuts(costs, high * (1 + 1e-9), pieces)
    stages, start = [], 0
    for place, end in enumerate(ends):
        vision = max(0, min(end, layers[0]) - start)
        joins = start < layers[0] <= end
        stages.append(Stage(vision, end - start - vision, place == 0, joins, place == pieces - 1))
        start = end
    return tuple(stages)


def _pieces_below(costs: Sequence[float], limit: float) -> int:
    count, held = 1, 0.0
    for cost in costs:
        if held + cost > limit:
            count, held = count + 1, 0.0
        held += cost
    return count


def _cuts(costs: Sequence[float], limit: float, pieces: int) -> list[int]:
    """Ends of the pieces; each has a block at least."""
    ends: list[int] = []
    held, left = 0.0, pieces
    for place, cost in enumerate(costs):
        short = len(costs) - place < left  # the blocks that are left are needed one by one
        if place and left > 1 and (held + cost > limit or short):
            ends.append(place)
            held, left = 0.0, left - 1
        held += cost
    return [*ends, len(costs)]


def replications(devices: int, grid: Grid, batch: int) -> Iterator[tuple[int, int, int]]:
    """(data, sharding, stage) of the devices that the grid leaves, as far as the global batch has rows."""
    replicas = devices // grid.devices
    if batch % replicas:
        return
    for sharding in divisors(replicas):
        for stage in SHARDINGS:
            if (stage == 0) == (sharding == 1):
                yield replicas // sharding, sharding, stage


def micro_batches(batch: int, replicas: int, grid: Grid) -> Iterator[tuple[int, int]]:
    """(rows of a pass, passes of a step): powers of two, and whole rounds of an interleaved pipeline."""
    rows = batch // replicas
    micro = 1
    while micro <= rows:
        if rows % micro == 0:
            passes = rows // micro
            if grid.interleave == 1 or passes % grid.pipeline == 0:
                yield micro, passes
        micro *= 2
