"""Which maps lora_target_modules selects, and what is said where it selects none."""

from __future__ import annotations

from typing import Any

import pytest

from mix_core.config import load_config
from mix_core.errors import CheckpointError, ConfigError
from mix_core.models.common.layers import Linear
from mix_core.models.common.lora import LinearMap, LoRASettings
from mix_core.training.lora import settings_of, targets
from mix_core.training.run import _check_start

ENDS = ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj")
DECODER = [f"model.layers.{layer}.{end}" for layer in range(2) for end in ENDS]
TOWER = ["visual.blocks.0.attn.qkv", "visual.blocks.0.mlp.gate_proj"]


@pytest.fixture(scope="module")
def maps() -> list[LinearMap]:
    layer = Linear(1, 1, False)
    fused = [
        LinearMap(f"model.{path}", "model.layers.2.attention.wqkv", layer, path)
        for path in (f"layers.2.self_attn.{part}" for part in "qkv")
    ]
    decoder = [LinearMap(path, path, layer, path.removeprefix("model.")) for path in DECODER]
    return [*decoder, *(LinearMap(path, path, layer) for path in TOWER), *fused]


def selected(maps: list[LinearMap], patterns: Any) -> list[str]:
    return [one.path for one in targets(maps, patterns)]


def test_default_is_the_language_model(maps):
    assert selected(maps, None) == [one.path for one in maps if one.path.startswith("model.")]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["q_proj"], [DECODER[0], DECODER[4]]),  # PEFT: the name's end
        (["mlp.gate_proj"], [DECODER[2], DECODER[6], TOWER[1]]),
        (".*layers.*gate_proj", [DECODER[2], DECODER[6]]),  # PaddleNLP: all of the name
        ([r"model\.layers\.1\..*_proj.*"], DECODER[4:]),
        ("q_proj,o_proj", [DECODER[0], DECODER[1], DECODER[4], DECODER[5]]),  # Qwen2.5-VL's script
        (
            ["llama.layer.*q_proj.*", "llama.layer.*o_proj.*"],
            [DECODER[0], DECODER[1], DECODER[4], DECODER[5]],
        ),
        (["visual.blocks.0.attn.qkv"], TOWER[:1]),
        ([".*wqkv"], [f"model.layers.2.self_attn.{part}" for part in "qkv"]),  # the parts of a fused matrix
    ],
)
def test_patterns(maps, patterns, expected):
    assert selected(maps, patterns) == expected


@pytest.mark.parametrize(
    ("patterns", "says"),
    [
        (["q_proj", "qproj"], r"'qproj' matches no linear map; near names: q_proj"),
        (["down"], r"'down' matches no linear map; near names: down_proj"),
        ("layers", r"'layers' matches no linear map; names are like .*model.layers.N"),
        (["(q"], r"'\(q' is no regular expression"),
        ([], "is an empty list"),
    ],
)
def test_what_matches_nothing_is_refused_with_near_names(maps, patterns, says):
    with pytest.raises(ConfigError, match=says):
        selected(maps, patterns)


def test_the_original_tools_keys():
    keys = {"use_lora": "true", "rank": "8", "lora_alpha": "16", "lora_dropout": "0.05", "use_rslora": "true"}
    config = load_config(arguments={**keys, "lora_target_modules": "q_proj,v_proj"})
    assert config.lora and config.lora_target_modules == "q_proj,v_proj"
    assert settings_of(config) == LoRASettings(rank=8, alpha=16.0, dropout=0.05, rslora=True)
    default = load_config(arguments={"lora": "true"})
    assert settings_of(default) == LoRASettings(rank=128, alpha=256.0)
    listed = load_config(arguments={"lora": "true", "lora_target_modules": "[q_proj, 'model.*k_proj.*']"})
    assert listed.lora_target_modules == ["q_proj", "model.*k_proj.*"]


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (
            {"lora": "true", "lora_rank": "0"},
            "lora_rank: got the number 0, expected a whole number of at least 1",
        ),
        ({"lora": "true", "lora_dropout": "1.0"}, "lora_dropout: got the number 1.0, .*below 1"),
        ({"lora": "true", "from_scratch": "true"}, "from_scratch draws random ones"),
        ({"lora": "true", "resize_vocab": "true"}, "its vocabulary cannot grow"),
        ({"lora_path": "a"}, "lora_path names an adapter and lora is false"),
        ({"use_llm_lora": "16"}, "use_llm_lora is the number 16, but lora, lora_rank"),
        (
            {"weight_quantize_algo": "weight_only_int8"},
            "weights that learn cannot be kept so; give lora: true",
        ),
        (
            {"lora": "true", "weight_quantize_algo": "nf4"},
            'got the text "nf4", expected one of weight_only_int8',
        ),
        (
            {"lora": "true", "use_dora": "true", "weight_quantize_algo": "weight_only_int8"},
            "use_dora needs the lengths",
        ),
        ({"merge_model_path": "out"}, "mix-core merge-lora --model DIR --lora DIR --out DIR"),
    ],
)
def test_keys_that_contradict_are_refused(keys, says):
    with pytest.raises(ConfigError, match=says):
        load_config(arguments=keys)


def test_a_run_goes_on_as_what_it_was(tmp_path):
    adapter, model = tmp_path / "adapter", tmp_path / "model"
    adapter.mkdir()
    model.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    _check_start(adapter, True)
    _check_start(model, False)
    with pytest.raises(CheckpointError, match="holds an adapter and lora is false"):
        _check_start(adapter, False)
    with pytest.raises(CheckpointError, match="holds a whole model and lora is true"):
        _check_start(model, True)
