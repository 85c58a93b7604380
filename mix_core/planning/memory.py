"""The most memory that one device needs in a training step, from what each part of the model keeps.

A step is walked part by part: forward, what a part keeps adds up; backward, in the other order, it goes and
gradients come. The peak is the highest moment of the walk, or that of the sums over ranks after it.

Korthikanti et al., "Reducing Activation Recomputation in Large Transformer Models", 2022, count the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from mix_core.models.outline import PARTS, Outline
from mix_core.planning.kept import WHOLE, Part, Share, block_parts
from mix_core.planning.work import CHIP, Kernels, Numbers, Work

RECOMPUTE = ("none", "selective", "full")
"""Nothing; attention with its maps; whole blocks."""
BUCKET_BYTES = 32 << 20
"""Of gradients that are joined for one sum over ranks (training/parallel.py)."""
UPDATE_BUNCH = 1 << 21
"""Numbers whose gradients wait for an update going back (training/in_backward.py)."""
MAX_LOGITS = 1 << 24
"""Numbers in one block of logits (ops/head_loss.py)."""


@dataclass(frozen=True)
class Setting:
    """What of a run, besides its layout, decides on memory."""

    numbers: Numbers = field(default_factory=Numbers)
    kernels: Kernels = CHIP
    recompute: str = "none"
    learns: Mapping[str, bool] | None = None
    """By part of the model; None: all."""
    adapter_rank: int = 0
    """Of adapters on every map of the decoder, which is frozen then."""
    accumulates: bool = False
    """Whether a step has several passes, so that gradients of earlier ones stand beside the last one's."""
    bunch: int = 0
    """Above 0, parameters are updated going back once gradients of so many numbers have come, and these are
    forgotten (`optimizer_in_backward`)."""

    def learns_part(self, part: str) -> bool:
        if self.adapter_rank:
            return False
        return True if self.learns is None else self.learns.get(part, True)


@dataclass(frozen=True)
class Stage:
    """The part of the model that one device of a pipeline holds; without a pipeline all of it."""

    tower_layers: int
    decoder_layers: int
    first: bool = True
    """Whether it embeds patches."""
    joins: bool = True
    """Whether the tower ends on it: then projector and embedding of tokens are here too."""
    last: bool = True
    """Whether it has the last norm and the head."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one device at the worst moment."""

    weights: int
    optimizer: int
    """Both moments of AdamW."""
    masters: int
    gradients: int
    activations: int
    buffers: int
    """Of collectives and of tables."""

    @property
    def total(self) -> int:
        return self.weights + self.optimizer + self.masters + self.gradients + self.activations + self.buffers


def whole(outline: Outline) -> Stage:
    return Stage(outline.tower.layers, outline.decoder.layers)


def stage_parameters(
    outline: Outline, stage: Stage, setting: Setting, share: Share = WHOLE
) -> tuple[int, int]:
    """Numbers that a device holds of the stage, and those of them that learn."""
    t, held, learning = share.tensor, 0, 0
    counts = {part: 0 for part in PARTS}
    for part, stack, layers in (
        ("tower", outline.tower, stage.tower_layers),
        ("decoder", outline.decoder, stage.decoder_layers),
    ):
        split = 1 if part == "tower" else t  # each rank computes the whole tower
        matrices = stack.attention_matrices + stack.mlp_matrices + stack.split_vectors
        counts[part] += layers * (-(-matrices // split) + stack.whole_vectors)
    for part, here in (("tower", stage.first), ("projector", stage.joins)):
        if here:
            counts[part] += sum(one.parameters for one in outline.maps if one.part == part)
            counts[part] += outline.loose.get(part, 0)
    words = -(-outline.vocabulary // t) * outline.decoder.width
    if stage.joins:
        counts["decoder"] += words
    if stage.last:
        counts["decoder"] += outline.loose.get("decoder", 0)
        if not (outline.tied and stage.joins):
            counts["decoder"] += words
    for part in PARTS:
        held += counts[part]
        learning += counts[part] if setting.learns_part(part) else 0
    adapters = adapter_parameters(outline, stage, setting.adapter_rank, t)
    return held + adapters, learning + adapters


def block_gradients(
    outline: Outline, stage: Stage, setting: Setting, share: Share = WHOLE
) -> tuple[int, int]:
    """Bytes of the gradients of all blocks of a stage, and of its largest block."""
    total, largest = 0, 0
    for part, stack, layers, split in (
        ("tower", outline.tower, stage.tower_layers, 1),
        ("decoder", outline.decoder, stage.decoder_layers, share.tensor),
    ):
        matrices = stack.attention_matrices + stack.mlp_matrices + stack.split_vectors
        one = 4 * (-(-matrices // split) + stack.whole_vectors)
        if part == "decoder" and setting.adapter_rank:
            one = 4 * adapter_parameters(outline, Stage(0, 1), setting.adapter_rank, share.tensor)
        elif not setting.learns_part(part):
            one = 0
        total, largest = total + layers * one, max(largest, one if layers else 0)
    return total, largest


def adapter_parameters(outline: Outline, stage: Stage, rank: int, tensor: int = 1) -> int:
    """Numbers of adapters on the maps of decoder blocks, whose side towards the tokens is not divided."""
    stack = outline.decoder
    heads, keys = stack.heads * stack.head_dim, stack.kv_heads * stack.head_dim
    of_mlp = 3 if stack.gated else 2
    inside = 2 * heads + 2 * keys + of_mlp * stack.inner
    return stage.decoder_layers * rank * ((4 + of_mlp) * stack.width + inside // tensor)


def stage_parts(
    outline: Outline, stage: Stage, work: Work, setting: Setting, share: Share = WHOLE
) -> list[Part]:
    """In the order of the forward pass."""
    parts: list[Part] = []
    flows = False
    if work.patches and (stage.first or stage.joins or stage.tower_layers):
        parts += _tower_parts(outline, stage, work, setting)
        flows = setting.learns_part("tower") or setting.learns_part("projector")
    if stage.joins:
        parts.append(_embedding(outline, work, setting, share))
    flows = flows or setting.learns_part("decoder") or setting.adapter_rank > 0 or not stage.first
    parts += _decoder_parts(outline, stage, work, setting, share, flows)
    if stage.last:
        parts.append(_head(outline, stage, work, setting, share))
    return parts


def _tower_parts(outline: Outline, stage: Stage, work: Work, setting: Setting) -> list[Part]:
    tower, numbers = outline.tower, setting.numbers
    learns = setting.learns_part("tower")
    tiles = work.patches / outline.tile_patches
    full, windowed = _tower_blocks(outline, work, setting, learns)
    full_layers = tower.full_layers if tower.window is not None else tower.layers
    blocks: list[Part] = []
    for layer in range(stage.tower_layers):
        is_full = (layer + 1) * full_layers // tower.layers > layer * full_layers // tower.layers
        blocks += full if is_full else windowed
    maps = {part: [one for one in outline.maps if one.part == part] for part in ("tower", "projector")}
    ends: dict[str, list[Part]] = {"tower": [], "projector": []}
    for part, of_part in maps.items():
        flows = setting.learns_part("tower") if part == "projector" else False
        for place, one in enumerate(of_part):
            learning = setting.learns_part(part)
            kept = numbers.product * one.rows * one.inputs
            if place + 1 < len(of_part):
                kept += numbers.product * one.rows * one.outputs  # what the gelu between them keeps
            temporary = int(tiles * numbers.stream * one.rows * one.outputs)
            copies = numbers.product * one.parameters if numbers.casts else 0
            own = one.parameters + (0 if place else outline.loose.get(part, 0))
            stays = int(tiles * kept) + copies if learning or flows else 0
            ends[part].append(Part(stays, temporary, 2 * temporary, 4 * own if learning else 0))
    return ends["tower"] * stage.first + blocks + ends["projector"] * stage.joins


def _tower_blocks(
    outline: Outline, work: Work, setting: Setting, learns: bool
) -> tuple[list[Part], list[Part]]:
    """A block that sees whole frames, and one that sees windows."""
    tower = outline.tower
    windows = tuple(
        (min(length, tower.window or length), count * -(-length // (tower.window or length)))
        for length, count in work.patch_spans
    )
    made = []
    for spans in (work.patch_spans, windows):
        pair = block_parts(
            tower,
            work.patches,
            spans,
            setting.numbers,
            setting.kernels,
            causal=False,
            learns=learns,
            share=WHOLE,
        )
        stream = setting.numbers.stream * work.patches * tower.width
        made.append(_recomputed(pair, setting.recompute, stream) if learns else [_forgotten(pair)])
    return made[0], made[1]


def _decoder_parts(
    outline: Outline, stage: Stage, work: Work, setting: Setting, share: Share, flows: bool
) -> list[Part]:
    stack, numbers, kernels = outline.decoder, setting.numbers, setting.kernels
    rank = setting.adapter_rank
    together = (
        "gated_mlp" in kernels
    )  # then maps and adapters run in one too, and keep what a block without them does
    blocks: list[Part] = []
    for layer in range(stage.decoder_layers):
        asked = work.labels if stage.last and layer + 1 == stage.decoder_layers else work.tokens
        pair = block_parts(
            stack,
            work.tokens,
            work.spans,
            numbers,
            kernels,
            causal=True,
            learns=setting.learns_part("decoder"),
            share=share,
            mlp_tokens=asked,
        )
        if rank:
            pair = _with_adapters(pair, outline, work.tokens, asked, numbers, 0 if together else rank, rank)
        stream = numbers.stream * work.tokens * stack.width // share.stream
        blocks += _recomputed(pair, setting.recompute, stream) if flows else [_forgotten(pair)]
    return blocks


def _with_adapters(
    pair: tuple[Part, Part], outline: Outline, tokens: int, asked: int, numbers: Numbers, kept: int, rank: int
) -> tuple[Part, Part]:
    """An adapter that runs by itself keeps its inner vector, `kept` wide, before and after its scale."""
    own = adapter_parameters(outline, Stage(0, 1), rank)
    inner = 2 * numbers.product * kept
    attention, mlp = pair
    return (
        replace(attention, kept=attention.kept + 4 * inner * tokens, gradients=2 * own),
        replace(mlp, kept=mlp.kept + 3 * inner * asked, gradients=2 * own),
    )


def _recomputed(pair: tuple[Part, Part], recompute: str, stream: int) -> list[Part]:
    """A block's parts, or one that keeps its input only and has the rest for a moment going back."""
    attention, mlp = pair
    if recompute == "none":
        return [attention, mlp]
    if recompute == "selective":
        again = Part(stream, attention.forward, attention.kept - stream + attention.backward)
        return [replace(again, gradients=attention.gradients), mlp]
    backward = attention.kept - stream + max(mlp.kept + mlp.backward, attention.backward)
    gradients = attention.gradients + mlp.gradients
    return [Part(stream, max(attention.forward, mlp.forward), backward, gradients)]


def _forgotten(pair: tuple[Part, Part]) -> Part:
    """A frozen block that no gradient passes keeps nothing."""
    return Part(0, max(part.forward for part in pair), 0)


def _embedding(outline: Outline, work: Work, setting: Setting, share: Share) -> Part:
    D = outline.decoder.width
    words = -(-outline.vocabulary // share.tensor) * D
    learns = setting.learns_part("decoder")
    output = setting.numbers.stream * work.tokens * D
    own = 4 * words if learns else 0
    if not outline.tied:
        return Part(0, 2 * output, output, own)
    # the rows of tokens are added into the gradient of the head; narrow ones are a matrix of their own
    added = 2 * 4 * min(work.tokens, outline.vocabulary) * D if learns else 0
    beside = added if setting.numbers.weight == 4 else own
    return Part(0, 2 * output, output + beside, unfinished=-own)


def _head(outline: Outline, stage: Stage, work: Work, setting: Setting, share: Share) -> Part:
    """Last norm, head and loss in blocks of rows; its gradients are made going forward."""
    D, R = outline.decoder.width, work.labels
    words = -(-outline.vocabulary // share.tensor)
    learns = setting.learns_part("decoder")
    block = min(R, max(1, MAX_LOGITS // words))
    own = 4 * words * D if learns else 0
    joined = "linear_cross_entropy" in setting.kernels and setting.numbers.product == 4
    temporary = own if joined else own + 4 * 4 * block * words
    wide = 0 if setting.numbers.product == 4 else 4 * words * D + 4 * R * D
    kept = (4 + setting.numbers.stream) * R * D
    last_norm = 4 * outline.loose.get("decoder", 0) if learns else 0
    unfinished = own if outline.tied and stage.joins else 0
    return Part(kept, temporary + wide, setting.numbers.stream * R * D, own + last_norm, unfinished)


def walk(parts: Sequence[Part], accumulates: bool, in_flight: float = 1.0, bunch: int = 0) -> tuple[int, int]:
    """Bytes of gradients and of all else at the highest moment of a pass.

    `in_flight`: passes whose kept tensors stand at once (a pipeline's first stages have several). `bunch`: as
    in `Setting`.
    """
    everything = sum(part.gradients for part in parts)
    made = everything if accumulates else 0
    held = int(sum(part.kept for part in parts) * (in_flight - 1))
    worst = (made, held)
    for part in parts:
        worst = max(worst, (made, held + part.kept + part.forward), key=sum)
        held += part.kept
    unfinished = 0
    for part in reversed(parts):
        # with gradients from before, the new one stands beside the sum until it is added
        made = made if accumulates else made + part.gradients
        beside = part.gradients if accumulates else 0
        worst = max(worst, (made, held + part.backward + beside), key=sum)
        held -= part.kept
        unfinished += part.unfinished
        if bunch and made - unfinished >= 4 * bunch:
            made = unfinished
    return worst


def device_memory(
    outline: Outline,
    work: Work,
    setting: Setting,
    *,
    stage: Stage | None = None,
    share: Share = WHOLE,
    ranks: int = 1,
) -> Memory:
    """Of one device of a data-parallel group of `ranks`, without sharding (layouts.py adds it)."""
    stage = stage or whole(outline)
    held, learning = stage_parameters(outline, stage, setting, share)
    parts = stage_parts(outline, stage, work, setting, share)
    gradients, activations = walk(parts, setting.accumulates, bunch=setting.bunch)
    all_gradients = 0 if setting.bunch else 4 * learning
    buffers = sum_buffers(all_gradients) if ranks > 1 else 0
    if all_gradients + buffers > gradients + activations:
        gradients, activations = all_gradients, 0
    else:
        buffers = 0
    return Memory(
        weights=setting.numbers.weight * held,
        optimizer=8 * learning,
        masters=4 * learning if setting.numbers.has_masters else 0,
        gradients=gradients,
        activations=activations,
        buffers=buffers,
    )


def sum_buffers(gradients: int) -> int:
    """A message of joined gradients, and its parts after the sum."""
    return 2 * min(gradients, BUCKET_BYTES)
