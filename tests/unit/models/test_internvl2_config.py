"""config.json of InternVL2: read, written, refused."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from mix_core.errors import BadInputError
from mix_core.models.common.geometry import sequence_lengths
from mix_core.models.internvl2 import FAMILY
from mix_core.models.internvl2.config import config_from_dict, config_to_dict
from mix_core.models.internvl2.geometry import ntk_theta
from mix_core.models.registry import get_family
from tests.builders.internvl2_checkpoints import config_of


def changed(path: str, value: Any) -> dict[str, Any]:
    source = copy.deepcopy(config_of())
    *inner, last = path.split(".")
    place = source
    for key in inner:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return source


@pytest.mark.parametrize("decoder", ["internlm2", "qwen2", "llama"])
def test_what_is_written_is_read_again_with_every_published_key(decoder: str) -> None:
    source = config_of(decoder)
    config = config_from_dict(source)
    written = config_to_dict(config, "bfloat16")
    assert config_from_dict(written) == config
    for part in ("", "llm_config", "vision_config"):
        before, after = (tree[part] if part else tree for tree in (source, written))
        assert {key: after.get(key) for key in before if key != "rope_theta"} | {
            "llm_config": 0,
            "vision_config": 0,
        } == {key: value for key, value in before.items() if key != "rope_theta"} | {
            "llm_config": 0,
            "vision_config": 0,
        }
    assert get_family("internvl_chat") is FAMILY


def test_tokens_of_a_tile() -> None:
    published = config_from_dict(
        config_of(force_image_size=448, vision={"image_size": 448, "patch_size": 14})
    )
    assert (published.image_size, published.grid, published.num_image_token) == (448, 32, 256)
    assert config_from_dict(changed("force_image_size", None)).image_size == 28


@pytest.mark.parametrize(
    "path,value,says",
    [
        ("llm_config.hidden_size", None, "lacks llm_config.hidden_size"),
        ("vision_config.qk_normalization", None, "lacks vision_config.qk_normalization"),
        ("template", None, "lacks template"),
        ("llm_config.architectures", ["Phi3ForCausalLM"], "not Phi3, the decoder of InternVL2-4B"),
        ("llm_config.bias", True, "bias = true"),
        ("llm_config.rope_scaling", {"type": "linear", "factor": 2.0}, "type 'linear', expected 'dynamic'"),
        ("llm_config.rope_scaling", {"type": "dynamic"}, "lacks llm_config.rope_scaling.factor"),
        ("llm_config.num_key_value_heads", 3, "num_attention_heads = 4, which must be a multiple of 3"),
        ("vision_config.dropout", 0.1, "dropout = 0.1"),
        ("vision_config.norm_type", "batch_norm", "expected layer_norm or rms_norm"),
        ("vision_config.hidden_act", "quick_gelu", "expected gelu"),
        ("force_image_size", 30, "the side of a tile = 30, which must be a multiple of 7"),
        ("force_image_size", 35, "divide the 5 patches"),
        ("select_layer", -4, "select_layer = -4, but the tower has 2 layers"),
        ("ps_version", "v3", "expected v1 or v2"),
        ("max_dynamic_patch", 0, "expected 1 <= min <= max"),
        ("pad2square", "no", "pad2square = 'no', expected bool"),
        ("vision_config.depth", 1, None),
    ],
)
def test_what_does_not_fit_is_refused_with_its_value(path: str, value: Any, says: str | None) -> None:
    if says is None:
        assert config_from_dict(changed(path, value)) == config_from_dict(config_of()), (
            "unknown keys do no harm"
        )
        return
    with pytest.raises(BadInputError) as refused:
        config_from_dict(changed(path, value))
    assert says in str(refused.value) and "\n" not in str(refused.value)


def test_the_rotary_base_grows_beyond_the_trained_length() -> None:
    assert ntk_theta(1e6, 2.0, 100, 100, 128) == 1e6
    # 2 * 150 / 100 - 1 = 2, to the power 128 / 126
    assert ntk_theta(1e6, 2.0, 150, 100, 128) == pytest.approx(1e6 * 2 ** (128 / 126))


def test_lengths_of_sequences() -> None:
    positions = np.array([[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 3, 3]])
    np.testing.assert_array_equal(sequence_lengths(positions), [[3, 3, 3, 2, 2, 1], [4, 4, 4, 4, 4, 4]])
