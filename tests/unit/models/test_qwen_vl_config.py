"""config.json of Qwen-VL, and the numbers that follow from it."""

from __future__ import annotations

import numpy as np
import pytest

from mix_core.errors import BadInputError
from mix_core.models.common.geometry import sequence_lengths, text_positions
from mix_core.models.qwen_vl.config import config_from_dict, config_to_dict
from mix_core.models.qwen_vl.geometry import logn_scales, ntk_alpha, resizing
from mix_core.models.qwen_vl.model import picture_places
from tests.builders.qwen_vl import tiny_config

START = 280


def test_the_published_file_comes_back():
    source = tiny_config(START)
    assert config_to_dict(config_from_dict(source), "float32") == source
    del source["visual"]["n_queries"]
    config = config_from_dict(source)
    assert config.vision.n_queries == 256 and config.vision.query_grid == 16
    assert "n_queries" not in config_to_dict(config, "bfloat16")["visual"]


@pytest.mark.parametrize(
    "change,message",
    [
        ({"visual": None}, "has no section visual: this is a Qwen model without pictures"),
        (
            {"quantization_config": {"bits": 4}},
            "has quantization_config: packed integer weights are not read",
        ),
        ({"seq_length": None}, "lacks seq_length; the model needs it, and no default is assumed"),
        ({"use_logn_attn": 1}, "has use_logn_attn = 1, expected bool"),
        ({"no_bias": False}, "has no_bias = False; only True is built"),
        ({"rotary_pct": 0.5}, "has rotary_pct = 0.5; only 1.0 is built"),
        ({"kv_channels": 64}, "has kv_channels = 64, expected hidden_size / num_attention_heads = 32"),
        ({"num_attention_heads": 3}, "has hidden_size = 128, which must be a multiple of 3"),
        ({"intermediate_size": 321}, "has intermediate_size = 321, which must be a multiple of 2"),
        ({"num_hidden_layers": 0}, "has num_hidden_layers = 0, expected 1 or more"),
        ({"vocab_size": 282}, "has visual.image_start_id = 280, which with the two ids after it"),
    ],
)
def test_what_is_refused(change, message):
    with pytest.raises(BadInputError, match=message):
        config_from_dict(tiny_config(START) | change)


@pytest.mark.parametrize(
    "change,message",
    [
        ({"width": None}, "lacks visual.width"),
        ({"n_queries": 10}, "visual.n_queries = 10, expected a square number"),
        ({"image_size": 60}, "has visual.image_size = 60, which must be a multiple of 14"),
        ({"output_dim": 256}, "visual.output_dim = 256, but the decoder's hidden_size is 128"),
    ],
)
def test_what_is_refused_of_the_tower(change, message):
    with pytest.raises(BadInputError, match=message):
        config_from_dict(tiny_config(START, visual=change))


def test_the_rotary_base_grows_with_the_prompt():
    lengths = np.array([1, 2048, 2049, 4096, 4097, 8192, 8193])
    assert ntk_alpha(lengths, 2048).tolist() == [1, 1, 3, 3, 7, 7, 15]


def test_queries_grow_beyond_the_trained_length():
    assert logn_scales(np.arange(2048)[None], 2048) is None
    scales = logn_scales(np.array([[0, 2047, 2048, 4095]]), 2048)
    np.testing.assert_allclose(scales, [[1, 1, np.log(2049) / np.log(2048), 12 / 11]], rtol=1e-6)


def test_positions_and_the_lengths_of_rows():
    mask = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 0]])
    positions = text_positions((2, 5), mask, None)
    assert positions.tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 3, 0]]
    assert sequence_lengths(positions).tolist() == [[1, 1, 3, 3, 3], [4, 4, 4, 4, 1]]
    packed = text_positions((1, 6), None, np.array([0, 4, 4, 6]))
    assert packed.tolist() == [[0, 1, 2, 3, 0, 1]]
    assert sequence_lengths(packed).tolist() == [[4, 4, 4, 4, 2, 2]]


@pytest.mark.parametrize("source,target", [(16, 32), (16, 4), (3, 4), (4, 3)])
def test_resizing_keeps_what_is_even(source, target):
    matrix = resizing(source, target)
    assert matrix.shape == (target**2, source**2)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)
    along = np.repeat(np.arange(source, dtype=np.float32), source)  # a slope stays one away from the edges
    middle = (matrix @ along).reshape(target, target)[target // 4 : -(target // 4) or None]
    np.testing.assert_allclose(
        middle,
        ((np.arange(target) + 0.5) * source / target - 0.5)[target // 4 : -(target // 4) or None, None]
        * np.ones(target),
        atol=0.1,
    )
    assert resizing(source, source) is None


def test_places_of_pictures():
    ids = np.array([[5, START, 1, 2, START + 1, 7], [START, 3, 4, START + 1, 8, 9]])
    assert picture_places(ids, START, 2).tolist() == [2, 3, 7, 8]
    assert picture_places(np.array([[1, 2]]), START, 2).tolist() == []
