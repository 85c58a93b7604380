"""Which layers of a model tensor parallelism divides among ranks, and how. Imports no paddle.

A plan maps patterns of the model's layer names (fnmatch) to a division; layers that none names stay whole on
every rank. Shoeybi et al., "Megatron-LM: Training Multi-Billion Parameter Language Models Using Model
Parallelism", 2019: of two linear maps in a row, ranks divide the outputs of the first and the inputs of the
second, so that one sum over ranks follows both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Division:
    """How one kind of layer is divided."""

    kind: Literal["attention", "mlp", "words"]
    """What stands in for the layer (mix_core/models/parallel/layers.py)."""
    outputs: tuple[str, ...] = ()
    """Its linear maps of which a rank has some outputs."""
    inputs: tuple[str, ...] = ()
    """Its linear maps of which a rank has some inputs; a sum over ranks follows."""


TensorPlan = Mapping[str, Division]


def decoder_plan(decoder: str = "model", head: str = "lm_head") -> TensorPlan:
    """For a model on the shared decoder (decoder.py); the tower and the projector stay whole.

    decoder, head: names of the decoder and of its own output head, which a model may lack.
    """
    return {
        f"{decoder}.layers.*.self_attn": Division("attention", ("q_proj", "k_proj", "v_proj"), ("o_proj",)),
        f"{decoder}.layers.*.mlp": Division("mlp", ("gate_proj", "up_proj"), ("down_proj",)),
        f"{decoder}.embed_tokens": Division("words"),
        head: Division("words"),
    }
