"""Which blocks a pipeline's stages get: by lists, as the original tools have them, or by cost."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mix_core.errors import ConfigError
from mix_core.models.qwen2_5_vl.outline import SIZES, outline
from mix_core.models.registry import get_family
from mix_core.training.pipeline.split import in_words, pieces_of

QWEN_7B = (32, 28)


def cut(
    stages: int, counts: tuple[int, int] = QWEN_7B, figures: Any = None, learns: bool = True, **keys: Any
):
    usual = {"vit_pp_layers": None, "llm_pp_layers": None, "virtual_pp_degree": 1, "max_length": 1024}
    return pieces_of(SimpleNamespace(**usual | keys), stages, counts, figures, learns)


def lengths(pieces) -> list[tuple[int, int]]:
    return [(len(piece.tower), len(piece.decoder)) for piece in pieces]


def test_mindspeed_s_default_for_7b():
    pieces = cut(4, vit_pp_layers=[32, 0, 0, 0], llm_pp_layers=[1, 10, 10, 7])
    assert lengths(pieces) == [(32, 1), (0, 10), (0, 10), (0, 7)]
    assert [piece.decoder.start for piece in pieces] == [0, 1, 11, 21]
    assert [(piece.first, piece.joins, piece.last) for piece in pieces] == [
        (True, True, False),
        *[(False, False, False)] * 2,
        (False, False, True),
    ]


def test_mindspeed_s_frozen_example():
    """Its first stage has nothing that learns; pictures go on to the second one through the tower's end."""
    pieces = cut(4, vit_pp_layers=[30, 2, 0, 0], llm_pp_layers=[0, 11, 10, 7])
    assert lengths(pieces) == [(30, 0), (2, 11), (0, 10), (0, 7)]
    assert [piece.joins for piece in pieces] == [False, True, False, False]


def test_mindspeed_s_wrong_example_is_refused_by_name():
    with pytest.raises(ConfigError) as error:
        cut(4, vit_pp_layers=[30, 2, 0, 0], llm_pp_layers=[1, 10, 10, 7])
    for part in (
        "vit_pp_layers [30, 2, 0, 0] with llm_pp_layers [1, 10, 10, 7]",
        "stage 1 has 2 of the tower's blocks",
        "stage 0 before it 1 of the decoder's layers",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"vit_pp_layers": [32, 0]}, "vit_pp_layers and llm_pp_layers belong together"),
        ({"vit_pp_layers": [32], "llm_pp_layers": [28]}, "expected 2 numbers"),
        (
            {"vit_pp_layers": [31, 0], "llm_pp_layers": [1, 27]},
            "adds up to 31, .* has 32 blocks in its tower",
        ),
        ({"vit_pp_layers": [32, 0], "llm_pp_layers": [1, 28]}, "adds up to 29, .* has 28 layers"),
        ({"vit_pp_layers": [[32, 0]], "llm_pp_layers": [[1, 1], [1, 25]]}, "expected 1 list"),
        ({"virtual_pp_degree": 40}, "2 times virtual_pp_degree 40 asks for 80 pieces"),
    ],
)
def test_what_cannot_be_is_refused(keys, says):
    with pytest.raises(ConfigError, match=says):
        cut(2, **keys)


def test_lists_of_lists_are_pieces_of_the_stages():
    pieces = cut(2, (4, 18), vit_pp_layers=[[4, 0], [0, 0]], llm_pp_layers=[[1, 5], [6, 6]])
    assert lengths(pieces) == [(4, 1), (0, 5), (0, 6), (0, 6)]
    assert pieces[2].decoder == range(6, 12), "the first stage's second piece"
    assert in_words(pieces, 2) == (
        "pipeline of 2 stages: 4 vision blocks and 1 layer; then 6 layers | 5 layers; then 6 layers"
    )


def test_by_cost_a_frozen_tower_takes_less_room():
    size = next(one for one in SIZES if one.name == "qwen2_5_vl-7b")
    figures = outline(get_family("qwen2_5_vl").config_from_dict(size.config))
    learning, frozen = (cut(4, figures=figures, learns=learns) for learns in (True, False))
    assert sum(len(piece.tower) for piece in learning) == 32 and learning[-1].last
    assert len(frozen[0].decoder) >= len(learning[0].decoder)
    assert len(cut(4, figures=figures, virtual_pp_degree=2)) == 8
