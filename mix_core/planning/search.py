"""The layouts that fit and the fastest of them; and, of those that do not, how far they are off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mix_core.models.outline import Outline
from mix_core.planning.flops import block_flops, forward_flops
from mix_core.planning.kept import Share
from mix_core.planning.layouts import Grid, Layout, Refusal, Splits, grids, micro_batches, replications
from mix_core.planning.machine import Machine
from mix_core.planning.memory import (
    BUCKET_BYTES,
    RECOMPUTE,
    Memory,
    Setting,
    Stage,
    block_gradients,
    stage_parameters,
    stage_parts,
    sum_buffers,
    walk,
)
from mix_core.planning.timing import PassTime, StepTime, pass_time, step_time
from mix_core.planning.work import Work, rows_of

HEADROOM = 0.1
"""Share of the memory that a plan leaves: predictions hold to a tenth, and allocators lose some."""


@dataclass(frozen=True)
class Wanted:
    """What is to be planned."""

    outline: Outline
    devices: int
    memory: int
    """Bytes of one device."""
    sequence: int
    """Tokens of a row."""
    batch: int
    """Rows of a step, over all devices."""
    tiles: float
    """Picture tiles in a row."""
    setting: Setting
    """Without recompute and accumulation, which the plan chooses."""
    machine: Machine
    recompute: tuple[str, ...] = RECOMPUTE
    overlap: bool = False
    splits: Splits | None = None

    @property
    def room(self) -> int:
        """Bytes that a plan may use."""
        return int(self.memory * (1 - HEADROOM))


@dataclass(frozen=True)
class Plan:
    """A layout with what it costs."""

    layout: Layout
    memory: tuple[Memory, ...]
    """Of a device of each stage of the pipeline."""
    time: StepTime
    flops: float
    """Of one step, all devices."""
    tokens: int
    """Of one step."""

    @property
    def worst(self) -> Memory:
        return max(self.memory, key=lambda one: one.total)

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.time.total

    def utilisation(self, devices: int, machine: Machine) -> float:
        """Model flops utilisation: a share of what the devices could do in that time."""
        return self.flops / self.time.total / (devices * machine.peak_flops)


@dataclass(frozen=True)
class Found:
    """Everything that a search gives."""

    plans: list[Plan]
    """Those that fit, the fastest first."""
    refused: list[Refusal]
    """By arithmetic, then those for which no memory is enough."""
    seen: int
    """Layouts whose memory was reckoned."""
    nearest: Refusal | None = None
    """Of those that need too much memory, the one that needs least."""


@dataclass(frozen=True)
class _Rank:
    """A device of one stage before replicas share anything out."""

    held: int
    learning: int
    kept: int
    plain: tuple[int, int]
    """Gradients and the rest at the worst moment."""
    once: tuple[int, int]
    """The same where no gradients of earlier passes stand."""
    without: int
    """The rest at its worst, gradients left out."""
    in_blocks: int
    """Of the gradients, those of blocks."""
    block: int
    """Those of the largest block."""


def search(wanted: Wanted) -> Found:
    """Reckon every layout of the devices."""
    machine, outline = wanted.machine, wanted.outline
    one = rows_of(outline, wanted.sequence, 1, wanted.tiles)
    head = 2.0 * one.labels * outline.vocabulary * outline.decoder.width
    tower = block_flops(outline.tower, one.patches, one.patch_pairs)
    if not wanted.setting.learns_part("tower"):
        tower //= 3
    costs = (float(max(tower, 1)), float(block_flops(outline.decoder, one.tokens, one.token_pairs)), head)
    most_tensor = max(machine.devices_per_host, 1)
    divided, refused = grids(outline, wanted.devices, most_tensor, costs, wanted.splits)
    plans: list[Plan] = []
    seen = 0
    off: list[tuple[int, Refusal]] = []
    for grid in divided:
        fitting, count, least = _of_grid(wanted, grid)
        plans += fitting
        seen += count
        if not fitting:
            refusal = _too_much(wanted, grid, count, least)
            refused.append(refusal)
            off += [(least, refusal)] if count else []
    plans.sort(key=lambda plan: (plan.time.total, plan.worst.total))
    nearest = min(off, key=lambda pair: pair[0])[1] if off else None
    return Found(plans, refused, seen, nearest)


def _too_much(wanted: Wanted, grid: Grid, count: int, least: int) -> Refusal:
    what = f"tensor {grid.tensor} x pipeline {grid.pipeline}"
    if grid.interleave > 1:
        what += f" in {grid.interleave} pieces each"
    if not count:
        replicas = wanted.devices // grid.devices
        rows = f"{wanted.batch} rows a step"
        why = f"leaves {replicas} replicas, which do not divide {rows}"
        if wanted.batch % replicas == 0:
            why = f"takes passes by {grid.pipeline}, which {rows} over {replicas} replicas do not give"
        return Refusal(what, f"{what} {why}")
    need, room = (f"{size / 2**30:.1f}" for size in (least, wanted.room))
    return Refusal(what, f"{what} needs {need} GiB of {room} at least")


def _of_grid(wanted: Wanted, grid: Grid) -> tuple[list[Plan], int, int]:
    """Plans that fit, how many layouts were looked at, and the least memory that any needs."""
    plans: list[Plan] = []
    seen, least = 0, 1 << 62
    replicas = wanted.devices // grid.devices
    if wanted.batch % replicas:
        return plans, 0, 0
    shares = list(replications(wanted.devices, grid, wanted.batch))
    flops = wanted.batch * _row_flops(wanted)
    for recompute in wanted.recompute:
        smallest = 1 << 62  # larger passes need more: the first that fits nowhere is the last one tried
        whole = [(wanted.batch, 1)] if wanted.setting.bunch else None
        for micro, passes in whole or micro_batches(wanted.batch, replicas, grid):
            setting = replace(wanted.setting, recompute=recompute, accumulates=passes > 1)
            work = rows_of(wanted.outline, wanted.sequence, micro, wanted.tiles)
            ranks = _ranks(wanted.outline, grid, setting, work, passes)
            times = [_pass(wanted, grid, setting, work, rank, place) for place, rank in enumerate(ranks)]
            fits = False
            for data, sharding, stage in shares:
                if stage == 3 and recompute != "full":  # it computes every block again, as it gathers twice
                    continue
                layout = Layout(grid, data, sharding, stage, micro, passes, recompute)
                memory = tuple(_memory(rank, layout, setting) for rank in ranks)
                seen += 1
                total = max(one.total for one in memory)
                smallest = min(smallest, total)
                if total > wanted.room:
                    continue
                fits = True
                largest = max(ranks, key=lambda rank: rank.held)
                time = step_time(
                    layout,
                    times,
                    setting.numbers.weight * largest.held,
                    max(rank.learning for rank in ranks),
                    setting,
                    wanted.machine,
                    overlap=wanted.overlap,
                )
                plans.append(Plan(layout, memory, time, flops, wanted.batch * wanted.sequence))
            if not fits:
                break
        least = min(least, smallest)
    return plans, seen, least


def _row_flops(wanted: Wanted) -> float:
    row = rows_of(wanted.outline, wanted.sequence, 1, wanted.tiles)
    setting = wanted.setting
    learns = {part: setting.learns_part(part) for part in ("tower", "projector", "decoder")}
    return forward_flops(wanted.outline, row).training(learns, adapters=setting.adapter_rank > 0)


def memory_of(outline: Outline, layout: Layout, setting: Setting, work: Work) -> tuple[Memory, ...]:
    """What a device of each stage of the pipeline needs. `work`: of one pass of one device."""
    setting = replace(setting, recompute=layout.recompute, accumulates=layout.passes > 1)
    ranks = _ranks(outline, layout.grid, setting, work, layout.passes)
    return tuple(_memory(rank, layout, setting) for rank in ranks)


def _ranks(outline: Outline, grid: Grid, setting: Setting, work: Work, passes: int) -> list[_Rank]:
    share = Share(grid.tensor, grid.tensor > 1)
    known: dict[object, _Rank] = {}
    found = []
    for place, pieces in enumerate(grid.stages):
        if grid.interleave == 1:
            flying = float(min(grid.pipeline - place, passes))
        else:  # pieces under way before the first goes back, of as many as there are
            ahead = 2 * (grid.pipeline - place - 1) + (grid.interleave - 1) * grid.pipeline + 1
            flying = min(ahead / grid.interleave, float(passes))
        key = (pieces, flying)
        if key not in known:
            known[key] = _rank(outline, pieces, setting, work, share, max(flying, 1.0))
        found.append(known[key])
    return found


def _rank(
    outline: Outline, pieces: Sequence[Stage], setting: Setting, work: Work, share: Share, flying: float
) -> _Rank:
    parts, held, learning, in_blocks, block = [], 0, 0, 0, 0
    for piece in pieces:
        parts += stage_parts(outline, piece, work, setting, share)
        own_held, own_learning = stage_parameters(outline, piece, setting, share)
        held, learning = held + own_held, learning + own_learning
        of_blocks, largest = block_gradients(outline, piece, setting, share)
        in_blocks, block = in_blocks + of_blocks, max(block, largest)
    bare = [replace(part, gradients=0) for part in parts]
    return _Rank(
        held=held,
        learning=learning,
        kept=sum(part.kept for part in parts),
        plain=walk(parts, setting.accumulates, flying, setting.bunch),
        once=walk(parts, False, flying),
        without=walk(bare, setting.accumulates, flying)[1],
        in_blocks=in_blocks,
        block=block,
    )


def _pass(wanted: Wanted, grid: Grid, setting: Setting, work: Work, rank: _Rank, place: int) -> PassTime:
    return pass_time(
        wanted.outline,
        grid.stages[place],
        work,
        setting,
        wanted.machine,
        tensor=grid.tensor,
        span=wanted.devices,
        kept=rank.kept,
    )


def _memory(rank: _Rank, layout: Layout, setting: Setting) -> Memory:
    """What a device has once its replicas have shared out what the stage says."""
    s, stage, numbers = layout.sharding, layout.stage, setting.numbers
    gradients, rest = rank.plain
    all_gradients = 4 * rank.learning
    buffers = sum_buffers(all_gradients)
    gathered = 0
    weights = numbers.weight * rank.held
    if stage >= 2:
        gradients, rest = max(_moments_of_sums(rank, all_gradients, layout, setting), key=sum)
    elif layout.replicas > 1 and all_gradients + buffers > gradients + rest:
        gradients, rest = all_gradients, buffers
    if stage == 3:  # what is in no block is whole all step long
        gathered = numbers.weight * (all_gradients - rank.in_blocks) // 4
        weights = numbers.weight * (rank.held - rank.learning + rank.learning // s)
    # masters in float32 are the weights themselves where these are whole, or parts like them
    has_masters = numbers.has_masters or stage in (1, 2)
    return Memory(
        weights=weights,
        optimizer=8 * rank.learning // s,
        masters=4 * rank.learning // s if has_masters else 0,
        gradients=gradients,
        activations=rest,
        buffers=gathered,
    )


def _moments_of_sums(
    rank: _Rank, all_gradients: int, layout: Layout, setting: Setting
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Gradients and the rest going back, and when the last message of a pass is summed, from stage 2 on.

    A message is summed out of a copy of its gradients and the copy's pieces, and its parts are added to those
    of earlier messages and passes.
    """
    parts = all_gradients // layout.sharding
    before = parts if setting.accumulates else 0
    if layout.stage == 3:
        loose, whole = all_gradients - rank.in_blocks, setting.numbers.weight * rank.block // 4
        return (before + rank.block, rank.without + whole), (parts + loose, sum_buffers(loose))
    gradients, rest = rank.once
    buffers, last = sum_buffers(all_gradients), min(all_gradients, BUCKET_BYTES)
    if all_gradients > BUCKET_BYTES:
        sent = max(0, gradients - BUCKET_BYTES) // layout.sharding
        gradients, rest = min(gradients, BUCKET_BYTES) + sent, rest + buffers
    others = before or (all_gradients - last) // layout.sharding
    return (before + gradients, rest), (others + last, buffers)
