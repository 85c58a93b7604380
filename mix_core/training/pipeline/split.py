"""Which blocks of a model each stage of a pipeline has: as lists say, or so that the dearest costs least.

`vit_pp_layers: [32, 0, 0, 0]` with `llm_pp_layers: [1, 10, 10, 7]`, as `mm-convert` has them and
MindSpeed-MM's model.json under `pipeline_num_layers`, puts the whole tower and a layer of the decoder on the
first stage. Lists of lists are for several pieces on each stage: `[[1, 5], [6, 6]]` gives the first of two
stages layer 0 and layers 6 to 11.
Nothing here imports paddle.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from mix_core.errors import ConfigError
from mix_core.models.common.pieces import Piece
from mix_core.planning.flops import block_flops
from mix_core.planning.layouts import balanced
from mix_core.planning.work import rows_of

if TYPE_CHECKING:
    from mix_core.config import RunConfig
    from mix_core.models.outline import Outline

VISION, TEXT = "vit_pp_layers", "llm_pp_layers"
USUAL_TOKENS = 1024
"""Of a row, where `max_length` does not say it."""

Lists = list[int] | list[list[int]]


def pieces_of(
    config: RunConfig, stages: int, counts: tuple[int, int], outline: Outline | None, tower_learns: bool
) -> list[Piece]:
    """The pieces of a pipeline in the order of a pass; piece i is of stage i % stages.

    Args:
        counts: blocks of the model's tower, layers of its decoder.
        outline: the model in figures, to balance by; without it all blocks count alike.
    Raises:
        ConfigError: lists that are not of these stages or this model, or that no pipeline can run; more
            pieces than blocks.
    """
    lists = lists_of(config, stages)
    if lists is not None:
        _check_sums(lists, counts)
        return pieces_of_counts(*lists)
    number = stages * config.virtual_pp_degree
    if number > sum(counts):
        raise ConfigError(
            f"pipeline_parallel_degree {stages} times virtual_pp_degree {config.virtual_pp_degree} asks for "
            f"{number} pieces, and the model has {counts[0]} blocks in its tower and {counts[1]} layers"
        )
    cut = balanced(counts, number, *_costs(config, outline, tower_learns))
    return pieces_of_counts([one.tower_layers for one in cut], [one.decoder_layers for one in cut])


def _costs(config: RunConfig, outline: Outline | None, tower_learns: bool) -> tuple[float, float, float]:
    """Of a block of the tower, a layer of the decoder, the head; for a row with one picture of usual size."""
    if outline is None:
        return 1.0, 1.0, 1.0
    row = rows_of(outline, config.max_length or USUAL_TOKENS, 1, 1)
    tower = block_flops(outline.tower, row.patches, row.patch_pairs)
    if not tower_learns:
        tower //= 3  # forward alone
    decoder = block_flops(outline.decoder, row.tokens, row.token_pairs)
    return float(max(tower, 1)), float(decoder), 2.0 * row.labels * outline.vocabulary * outline.decoder.width


def lists_of(config: RunConfig, stages: int) -> tuple[list[int], list[int]] | None:
    """Blocks of the tower and layers of the decoder in each piece, where the configuration lists them.

    Raises:
        ConfigError: lists that are not of these stages, or that no pipeline can run.
    """
    vision, text = config.vit_pp_layers, config.llm_pp_layers
    if vision is None and text is None:
        return None
    if vision is None or text is None:
        raise ConfigError(f"{VISION} and {TEXT} belong together; give both or neither")
    chunks = {VISION: _chunks(vision), TEXT: _chunks(text)}
    each = config.virtual_pp_degree if config.virtual_pp_degree > 1 else len(chunks[VISION])
    for name, lists, given in ((VISION, chunks[VISION], vision), (TEXT, chunks[TEXT], text)):
        if any(len(one) != stages for one in lists):
            raise ConfigError(
                f"{name} is {given}; expected {stages} numbers, one for each stage of the pipeline"
            )
        if len(lists) != each:
            raise ConfigError(f"{name} is {given}; expected {each} lists, one for each piece of a stage")
    towers, decoders = ([number for one in lists for number in one] for lists in chunks.values())
    last_vision = max((place for place, number in enumerate(towers) if number), default=0)
    first_text = min((place for place, number in enumerate(decoders) if number), default=len(decoders))
    if first_text < last_vision:
        raise ConfigError(
            f"{VISION} {vision} with {TEXT} {text}: stage {last_vision % stages} has {towers[last_vision]} "
            f"of the tower's blocks, and stage {first_text % stages} before it {decoders[first_text]} of the "
            "decoder's layers; pictures pass the whole tower first, so move these layers back or those "
            "blocks forward"
        )
    return towers, decoders


def _check_sums(lists: tuple[list[int], list[int]], counts: tuple[int, int]) -> None:
    names = (VISION, "blocks in its tower"), (TEXT, "layers in its decoder")
    for (name, what), numbers, blocks in zip(names, lists, counts):
        if sum(numbers) != blocks:
            raise ConfigError(
                f"{name} {numbers} adds up to {sum(numbers)}, and the model has {blocks} {what}"
            )


def _chunks(given: Lists) -> list[list[int]]:
    """One list for each piece of a stage."""
    nested = [one for one in given if isinstance(one, list)]
    return nested or [[one for one in given if isinstance(one, int)]]


def pieces_of_counts(towers: Sequence[int], decoders: Sequence[int]) -> list[Piece]:
    """The pieces that have so many of the tower's blocks and of the decoder's layers."""
    joins = max((place for place, number in enumerate(towers) if number), default=0)
    tower_ends, decoder_ends = list(accumulate(towers)), list(accumulate(decoders))
    return [
        Piece(
            tower=range(tower_ends[place] - towers[place], tower_ends[place]),
            decoder=range(decoder_ends[place] - decoders[place], decoder_ends[place]),
            first=place == 0,
            joins=place == joins,
            last=place == len(towers) - 1,
        )
        for place in range(len(towers))
    ]


def in_words(pieces: Sequence[Piece], stages: int) -> str:
    """`pipeline of 2 stages: 4 blocks of the tower and 1 layer; 1 layer`."""
    told = ["; then ".join(str(piece) for piece in pieces[stage::stages]) for stage in range(stages)]
    return f"pipeline of {stages} stages: " + " | ".join(told)
