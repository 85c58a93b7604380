"""Operations of a model: by hand, from batches, and by what learns."""

from __future__ import annotations

import numpy as np
import pytest

from mix_core.models.outline import LinearMap, Outline, Stack
from mix_core.planning.flops import Forward, forward_flops, work_of
from mix_core.planning.model import outline_of
from mix_core.planning.work import Work, rows_of

BLOCK = dict(rotary=True, rms=True, qkv_bias=True, out_bias=False, mlp_bias=False)
SMALL = Outline(
    decoder=Stack(layers=3, width=8, heads=2, kv_heads=1, head_dim=4, inner=12, gated=True, **BLOCK),
    tower=Stack(
        layers=4,
        width=6,
        heads=2,
        kv_heads=2,
        head_dim=3,
        inner=10,
        gated=False,
        window=4,
        full_layers=1,
        **BLOCK,
    ),
    vocabulary=50,
    tied=True,
    maps=(
        LinearMap(inputs=5, outputs=6, bias=False, rows=16, part="tower"),
        LinearMap(inputs=24, outputs=8, bias=True, rows=4, part="projector"),
    ),
    loose={},
    tile_patches=16,
    tile_tokens=4,
)


def test_a_forward_pass_by_hand():
    work = Work(tokens=10, spans=((5, 2),), labels=7, patches=16, patch_spans=((16, 1),))
    found = forward_flops(SMALL, work).by_part
    products = 2 * 10 * (8 * (8 + 8) + 8 * 8 + 3 * 8 * 12)
    attention = 4 * (2 * 15) * 8
    assert found["decoder"] == 3 * (products + attention) + 2 * 7 * 50 * 8
    blocks = 4 * 2 * 16 * (6 * 18 + 6 * 6 + 2 * 6 * 10)
    # one layer sees all 16 patches, three see four each
    assert found["tower"] == blocks + 4 * 6 * (16 * 16 + 3 * 16 * 4) + 2 * 16 * 5 * 6
    assert found["projector"] == 2 * 4 * 24 * 8


def test_training_costs_what_learns():
    forward = Forward({"tower": 1.0, "projector": 10.0, "decoder": 100.0})
    assert forward.training() == 3 * 111
    assert forward.training({"tower": False}) == 1 + 3 * 110
    assert forward.training({"tower": False, "projector": False}) == 11 + 300
    assert forward.training({"decoder": False}) == 33 + 200  # gradients pass through it
    frozen = {"tower": False, "projector": False, "decoder": False}
    assert forward.training(frozen, adapters=True) == 11 + 200


@pytest.mark.parametrize("name", ["qwen2_5_vl-7b", "internvl2-8b"])
def test_text_costs_about_six_operations_for_a_parameter_and_token(name):
    outline = outline_of(name)
    work = rows_of(outline, 512, 4, 0)
    passing = outline.parameters_of("decoder") - outline.vocabulary * outline.decoder.width
    assert forward_flops(outline, work).training() == pytest.approx(6 * passing * 2048, rel=0.03)


def test_work_is_read_from_batches_without_their_padding():
    ids = np.zeros((2, 8), np.int64)
    mask = np.array([[1] * 8, [1] * 5 + [0] * 3])
    labels = np.where(np.arange(8) < 4, -100, 1) * np.ones((2, 1), np.int64)
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    work = work_of(SMALL, batch)
    assert (work.tokens, work.spans, work.labels, work.patches) == (13, ((5, 1), (8, 1)), 8, 0)
    packed = work_of(SMALL, {"input_ids": ids[:1], "cu_seqlens": np.array([0, 3, 3, 8], np.int32)})
    assert (packed.tokens, packed.spans) == (8, ((3, 1), (5, 1)))
    grids = {"image_grid_thw": np.array([[1, 4, 6]]), "video_grid_thw": np.array([[2, 2, 2]])}
    video = work_of(SMALL, {**batch, **grids})
    assert (video.patches, video.patch_spans) == (32, ((4, 2), (24, 1)))
    for shape, tiles in (((3, 3, 8, 8), 3), ((2, 5, 3, 8, 8), 10)):
        assert work_of(SMALL, {**batch, "pixel_values": np.zeros(shape)}).patches == 16 * tiles
