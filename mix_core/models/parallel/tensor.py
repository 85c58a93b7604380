"""Tensor parallelism: divides a model that is whole on each rank, as the plan beside it says."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatch
from typing import Any

from mix_core.models.common.tensor_plan import TensorPlan
from mix_core.models.parallel.across import Across
from mix_core.models.parallel.layers import DividedAttention, DividedMLP, DividedWords, SequenceLayer

_STAND_INS = {"attention": DividedAttention, "mlp": DividedMLP, "words": DividedWords}


def divide_model(model: Any, plan: TensorPlan, across: Across, *, sequence: bool = False) -> None:
    """Leave this rank's part of a model whose values are filled in; the sizes are known to divide.

    sequence: between divided layers, each rank keeps some of the tokens in training.
    """
    for path, layer in list(model.named_sublayers()):
        division = next((one for pattern, one in plan.items() if fnmatch(path, pattern)), None)
        if division is None:
            continue
        parent, _, name = path.rpartition(".")
        owner = model
        for step in parent.split(".") if parent else ():
            owner = getattr(owner, step)
        setattr(owner, name, _STAND_INS[division.kind](layer, division, across))
    decoder = model.model
    decoder.shape = replace(decoder.shape, kv_heads=decoder.shape.kv_heads // across.ranks)
    decoder.summed = across.summed
    count = len(decoder.layers)
    for number in range(count if sequence else 0):
        place = {"first": number == 0, "last": number == count - 1}
        decoder.layers[number] = SequenceLayer(decoder.layers[number], across, **place)
