"""Operations of a pass through the networks that learn pictures are those that torch counts in diffusers'."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mix_core.models.common.lora import LoRASettings, add_adapter, linear_maps
from mix_core.models.diffusion.network import network
from mix_core.training.pictures.operations import network_flops, passes_of
from tests.parity.diffusion_peer import random_peer

TOKENS = 7


def ours_of(theirs: Any) -> Any:
    kind = network(type(theirs).__name__)
    return kind.build(kind.config_from_dict(dict(theirs.config)))


def counted(theirs: Any, size: tuple[int, int]) -> int:
    """By torch, of one row."""
    config, draw = theirs.config, torch.zeros
    given = {"encoder_hidden_states": draw(1, TOKENS, config.get("joint_attention_dim", 0))}
    if "pooled_projection_dim" in config:
        given |= {"hidden_states": draw(1, config.in_channels, *size), "timestep": draw(1)}
        given["pooled_projections"] = draw(1, config.pooled_projection_dim)
    else:
        given = {"encoder_hidden_states": draw(1, TOKENS, config.cross_attention_dim), "timestep": draw(1)}
        given["sample"] = draw(1, config.in_channels, *size)
        if config.addition_embed_type:
            given["added_cond_kwargs"] = {"text_embeds": draw(1, 10), "time_ids": draw(1, 6)}
    # only that form of attention is made of products that the mode sees
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as mode:
        theirs(**given)
    return mode.get_total_flops()


@pytest.mark.parametrize("kind", ["SD 1.5", "SDXL", "SD3", "SD3.5"])
def test_operations_are_those_that_torch_counts(kind: str) -> None:
    theirs = random_peer(kind)
    ours = ours_of(theirs)
    for size in ((8, 8), (16, 8)):
        assert network_flops(ours, size, TOKENS) == counted(theirs, size)


def test_what_learns_decides_how_often_a_pass_counts() -> None:
    ours = ours_of(random_peer("SD3"))
    assert passes_of(ours) == 3
    for parameter in ours.parameters():
        parameter.stop_gradient = True
    assert passes_of(ours) == 1 and passes_of(ours, behind=True) == 2
    add_adapter(ours, linear_maps(ours)[:2], "own", LoRASettings(rank=2, alpha=2))
    assert passes_of(ours) == 2
