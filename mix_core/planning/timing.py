"""How long a step takes, by a roofline: products at a share of the peak, all else as memory and links allow.

A pipeline's step is its slowest stage's time for a pass, once for each pass and for each stage but one
(Narayanan et al., arXiv 2104.04473, 2021).
Sums and gathers go in rings: n devices send (n - 1) / n of the bytes in each half of an all-reduce.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mix_core.models.outline import Outline
from mix_core.planning.flops import block_flops, forward_flops
from mix_core.planning.layouts import Layout
from mix_core.planning.machine import Machine
from mix_core.planning.memory import Setting, Stage
from mix_core.planning.work import Work


@dataclass(frozen=True)
class PassTime:
    """Seconds of one pass on one stage of a pipeline, all its pieces together."""

    forward: float
    backward: float
    """With what is computed again."""
    tensor: float
    """Sums within a tensor-parallel group, both ways."""
    hand_over: float
    """Messages between stages, both ways."""

    @property
    def total(self) -> float:
        return self.forward + self.backward + self.tensor + self.hand_over


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step, by what they go into."""

    compute: float
    bubble: float
    """A stage waits for others: the pipeline's start and end, and stages that cost less than the dearest."""
    tensor: float
    pipeline: float
    data: float
    """Sums of gradients and gathers of weights among replicas, as far as nothing hides them."""
    hidden: float
    """Of those, what runs behind computing; not in the total."""
    update: float

    @property
    def total(self) -> float:
        return self.compute + self.bubble + self.tensor + self.pipeline + self.data + self.update


def pass_time(
    outline: Outline,
    pieces: Sequence[Stage],
    work: Work,
    setting: Setting,
    machine: Machine,
    *,
    tensor: int,
    span: int,
    kept: int,
) -> PassTime:
    """`span`: devices of the whole job; `kept`: bytes that the pass keeps, which are written and read."""
    rate = machine.peak_flops * machine.efficiency
    whole = forward_flops(outline, work).by_part
    tower_layers, decoder_layers = (
        sum(piece.tower_layers for piece in pieces),
        sum(piece.decoder_layers for piece in pieces),
    )
    head = 2.0 * work.labels * outline.vocabulary * outline.decoder.width
    text = (whole["decoder"] - head) * decoder_layers / outline.decoder.layers
    text += head if any(piece.last for piece in pieces) else 0.0
    vision = whole["tower"] * tower_layers / outline.tower.layers
    projector = whole["projector"] if any(piece.joins for piece in pieces) else 0.0
    forward = (vision + projector + text / tensor) / rate  # each rank computes the whole tower
    factors = _backward_factors(setting)
    back = vision * factors["tower"] + projector * factors["projector"]
    again_vision, again_text = _again(outline, tower_layers, decoder_layers, work, setting)
    backward = (back + again_vision + (text * factors["decoder"] + again_text) / tensor) / rate
    moved = 2 * kept / machine.memory_bandwidth
    stream = setting.numbers.product * work.tokens * outline.decoder.width
    sums = 0.0
    if tensor > 1:
        ways = 3 if setting.recompute == "full" else 2
        one = 2 * (tensor - 1) / tensor * stream / machine.bandwidth(tensor) + 2 * machine.latency_s
        sums = 2 * ways * decoder_layers * one
    messages = sum(2 for piece in pieces if not piece.last)
    hand_over = messages * (
        setting.numbers.stream * work.tokens * outline.decoder.width / tensor / machine.bandwidth(span)
        + machine.latency_s
    )
    return PassTime(forward + moved / 2, backward + moved / 2, sums, hand_over)


def _backward_factors(setting: Setting) -> dict[str, float]:
    """Backward over forward cost: 1 for gradients of the input, 1 for those of the weights."""
    learns = {part: setting.learns_part(part) for part in ("tower", "projector", "decoder")}
    into_projector = learns["tower"]
    into_decoder = into_projector or learns["projector"] or setting.adapter_rank > 0
    return {
        "tower": 2.0 * learns["tower"],
        "projector": 1.0 * learns["projector"] + (into_projector or learns["projector"]),
        "decoder": 1.0 * learns["decoder"] + (into_decoder or learns["decoder"]),
    }


def _again(
    outline: Outline, tower_layers: int, decoder_layers: int, work: Work, setting: Setting
) -> tuple[float, float]:
    """Operations that recompute repeats, in the tower and in the decoder."""
    if setting.recompute == "none":
        return 0.0, 0.0
    decoder, tower = outline.decoder, outline.tower
    text = block_flops(decoder, work.tokens, work.token_pairs)
    vision = block_flops(tower, work.patches, work.patch_pairs) if setting.learns_part("tower") else 0
    if setting.recompute == "selective":
        text -= 2 * work.tokens * decoder.mlp_matrices
        vision = max(0, vision - 2 * work.patches * tower.mlp_matrices)
    return float(vision * tower_layers), float(text * decoder_layers)


def step_time(
    layout: Layout,
    passes: Sequence[PassTime],
    weights: int,
    learning: int,
    setting: Setting,
    machine: Machine,
    *,
    overlap: bool,
) -> StepTime:
    """Of the slowest stage; `weights` bytes of parameters and `learning` numbers are those of one device."""
    grid = layout.grid
    slowest = max(passes, key=lambda one: one.total)
    mean = sum(one.forward + one.backward for one in passes) / len(passes)
    busy = slowest.forward + slowest.backward
    waiting = (grid.pipeline - 1) / grid.interleave * slowest.total
    exchange = _exchange(layout, weights, learning, machine)
    room = slowest.backward + slowest.tensor if overlap else 0.0
    if layout.stage == 3 and overlap:
        room += layout.passes * busy
    hidden = min(exchange, room)
    moved = (setting.numbers.weight + 4 * setting.numbers.has_masters + 4 + 16) * learning
    return StepTime(
        compute=layout.passes * mean,
        bubble=waiting + layout.passes * (busy - mean),
        tensor=layout.passes * slowest.tensor,
        pipeline=layout.passes * slowest.hand_over,
        data=exchange - hidden,
        hidden=hidden,
        update=moved / max(1, layout.sharding) / machine.memory_bandwidth,
    )


def _exchange(layout: Layout, weights: int, learning: int, machine: Machine) -> float:
    """Seconds of sums of gradients, and of gathers of weights where these are shared out."""
    seconds = 0.0
    gradients = 4 * learning
    s, d = layout.sharding, layout.data
    reach = layout.grid.tensor * s
    if s > 1:
        part, speed = (s - 1) / s, machine.bandwidth(reach)
        seconds += part * gradients / speed + machine.latency_s * s
        gathers = 2 * layout.passes if layout.stage == 3 else 1
        seconds += gathers * (part * weights / speed + machine.latency_s * s)
        gradients //= s
    if d > 1:
        seconds += 2 * (d - 1) / d * gradients / machine.bandwidth(reach * d) + 2 * machine.latency_s * d
    return seconds
