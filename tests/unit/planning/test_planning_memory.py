"""What is kept for the backward pass, by hand at one size, and what must hold at any."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mix_core.models.outline import Stack
from mix_core.planning.kept import Part, Share, block_parts
from mix_core.planning.layouts import balanced
from mix_core.planning.memory import (
    UPDATE_BUNCH,
    Setting,
    device_memory,
    stage_parameters,
    stage_parts,
    walk,
    whole,
)
from mix_core.planning.model import outline_of, published_names
from mix_core.planning.work import CHIP, Kernels, Numbers, rows_of
from mix_core.training.in_backward import BUNCH

STACK = Stack(
    layers=2,
    width=64,
    heads=4,
    kv_heads=2,
    head_dim=16,
    inner=96,
    gated=True,
    rotary=True,
    rms=True,
    qkv_bias=True,
    out_bias=False,
    mlp_bias=False,
)
T = 32
SPANS = ((8, 4),)
ALL = Kernels(CHIP.fused | {"qkv", "gated_mlp"})


def parts(numbers: Numbers, kernels: Kernels, **options) -> tuple[Part, Part]:
    return block_parts(STACK, T, SPANS, numbers, kernels, causal=True, learns=True, **options)


def test_a_block_of_joined_kernels_by_hand():
    """Float32: x, its norm, q, k, v, what attention gives with a number a head; sum, its norm, gate, up."""
    attention, mlp = parts(Numbers(), ALL)
    assert attention.kept == 4 * T * (64 + 1 + 64 + (64 + 2 * 32) + 64 + 4)
    assert mlp.kept == 4 * T * (64 + 1 + 64 + 2 * 96)
    # a norm and the matrices in each half, biases of q, k and v in the first
    assert attention.gradients == 4 * (64 * (64 + 2 * 32) + 64 * 64 + (64 + 2 * 32) + 64)
    assert mlp.gradients == 4 * (3 * 64 * 96 + 64)


def test_references_keep_scores_tables_and_sigmoids_too():
    attention, mlp = parts(Numbers(), Kernels(frozenset()))
    joined_attention, joined_mlp = parts(Numbers(), ALL)
    scores, tables = 4 * 8 * 8 * 4 * 4, 2 * 4 * T * (4 + 2) * 16
    # no number a head; scores of four segments of 8 for four heads; cosines and sines for every head
    assert attention.kept - joined_attention.kept == scores + tables - 4 * T * 4
    assert mlp.kept - joined_mlp.kept == 4 * T * 2 * 96


def test_casts_of_o1_stay_with_the_copies_of_the_matrices():
    o1, o2 = (parts(Numbers.of("bfloat16", level), CHIP) for level in ("O1", "O2"))
    # three casts of the norm's result and a wider stream in the first, two in the second
    assert o1[0].kept - o2[0].kept == 2 * (T * 64 + 2 * T * 64 + STACK.attention_matrices)
    assert o1[1].kept - o2[1].kept == 2 * (T * 64 + T * 64 + STACK.mlp_matrices)


@pytest.mark.parametrize("kernels", [ALL, CHIP, Kernels(frozenset())])
@pytest.mark.parametrize("level", ["O1", "O2"])
def test_ranks_of_a_tensor_group_hold_together_what_one_device_holds(kernels, level):
    numbers = Numbers.of("bfloat16", level)
    for one, split in zip(parts(numbers, kernels), parts(numbers, kernels, share=Share(2, True))):
        gathered = (2 * split.kept - one.kept) / (numbers.product * T * STACK.width)
        assert gathered in (1, 2, 3), (
            "both ranks have what maps take of all tokens, a cast for each map or one"
        )
        shared = 4 * STACK.whole_vectors // 2
        assert 2 * split.gradients - shared == one.gradients


@pytest.mark.parametrize("name", published_names())
def test_stages_and_ranks_hold_together_the_whole_model(name):
    outline, setting = outline_of(name), Setting()
    held, learning = stage_parameters(outline, whole(outline), setting)
    assert held == learning == outline.parameters
    parts = stage_parts(outline, whole(outline), rows_of(outline, 2048, 1, 1), setting)
    assert sum(part.gradients for part in parts) == 4 * learning
    words = outline.vocabulary * outline.decoder.width
    for pieces in (2, 3, 7):
        stages = balanced((outline.tower.layers, outline.decoder.layers), pieces, 1.0, 1.5, 4.0)
        total = sum(stage_parameters(outline, stage, setting)[0] for stage in stages)
        assert total == outline.parameters + outline.tied * words  # a tied matrix stands at both ends
    frozen = replace(setting, learns={"tower": False, "projector": False})
    assert stage_parameters(outline, whole(outline), frozen)[1] == outline.parameters_of("decoder")
    for rank in (1, 8):
        adapters = replace(setting, adapter_rank=rank)
        held, learning = stage_parameters(outline, whole(outline), adapters)
        assert held - learning == outline.parameters and learning % rank == 0


def test_tensor_ranks_hold_matrices_once_and_vectors_each():
    outline, setting = outline_of("qwen2_5_vl-7b"), Setting()
    one = stage_parameters(outline, whole(outline), setting)[0]
    two = stage_parameters(outline, whole(outline), setting, Share(2, True))[0]
    tower = outline.tower
    each = tower.layers * (tower.attention_matrices + tower.mlp_matrices + tower.split_vectors)
    each += sum(stack.layers * stack.whole_vectors for stack in (tower, outline.decoder))
    each += sum(a_map.parameters for a_map in outline.maps) + sum(outline.loose.values())
    assert 2 * two - each == one


def test_recompute_takes_less_and_frozen_parts_nothing_that_learns():
    outline = outline_of("qwen2_5_vl-3b")
    work = rows_of(outline, 4096, 1, 2)
    setting = Setting(Numbers.of("bfloat16", "O2"), accumulates=True)
    need = {
        how: device_memory(outline, work, replace(setting, recompute=how))
        for how in ("none", "selective", "full")
    }
    totals = [need[how].activations for how in ("full", "selective", "none")]
    assert totals == sorted(totals) and totals[0] < totals[2] / 4
    frozen = device_memory(outline, work, replace(setting, learns={"tower": False, "projector": False}))
    learned = outline.parameters_of("decoder")
    assert frozen.optimizer == 8 * learned and frozen.masters == 4 * learned == frozen.gradients
    assert frozen.weights == 2 * outline.parameters
    assert frozen.activations < need["none"].activations


def test_the_peak_of_a_walk_is_where_gradients_meet_what_is_kept():
    small, large = Part(10, 1, 5, gradients=40), Part(30, 2, 7, gradients=4)
    # forward 10 + 30 + 2; backward 4 + 40 + 7 in the second part, 44 + 10 + 5 in the first
    assert walk([small, large], accumulates=False) == (44, 15)
    # gradients of earlier passes stand all the time, and the new one beside them until it is added
    assert walk([small, large], accumulates=True) == (44, 55)
    # a second pass under way keeps its 40 too
    assert walk([small, large], accumulates=False, in_flight=2.0) == (44, 55)


def test_gradients_are_forgotten_once_a_bunch_of_them_has_come():
    parts = [Part(10, 0, 0, gradients=40), Part(10, 0, 0, gradients=24), Part(10, 0, 0, gradients=16)]
    # the last part's 16 bytes are 4 numbers and the two's 40 are 10, of which a bunch takes 5
    assert walk(parts, accumulates=False) == (80, 10)
    assert walk(parts, accumulates=False, bunch=5) == (40, 20)
    # half of the last part's gradients wait for the first part to be whole
    shared = [replace(parts[0], unfinished=-8), parts[1], replace(parts[2], unfinished=8)]
    assert walk(shared, accumulates=False, bunch=2) == (48, 10)
    assert UPDATE_BUNCH == BUNCH


@pytest.mark.parametrize("name", ["qwen2_5_vl-3b", "qwen2_5_vl-7b"])
def test_updates_going_back_leave_no_gradients_but_the_largest_parts(name):
    outline = outline_of(name)
    work = rows_of(outline, 2048, 1, 1)
    setting = Setting(Numbers.of("bfloat16", "O2"), recompute="full")
    usual, early = (
        device_memory(outline, work, replace(setting, bunch=bunch)) for bunch in (0, UPDATE_BUNCH)
    )
    parts = stage_parts(outline, whole(outline), work, setting)
    assert sum(part.unfinished for part in parts) == 0
    assert any(part.unfinished for part in parts) is outline.tied
    assert early.gradients <= 4 * UPDATE_BUNCH + max(part.gradients for part in parts) * (1 + outline.tied)
    assert early.gradients < usual.gradients / 4 and early.total < usual.total
    assert (early.weights, early.optimizer, early.masters) == (usual.weights, usual.optimizer, usual.masters)


def test_ranks_need_a_message_and_its_parts_after_the_passes():
    outline = outline_of("internvl2-1b")
    work = rows_of(outline, 256, 1, 0)
    alone, beside = (device_memory(outline, work, Setting(Numbers()), ranks=ranks) for ranks in (1, 2))
    assert beside.gradients == 4 * outline.parameters and beside.buffers == 2 * (32 << 20)
    assert beside.total >= alone.total
