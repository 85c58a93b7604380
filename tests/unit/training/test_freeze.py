"""Which parameters learn under each freezing key."""

from __future__ import annotations

import paddle
import pytest

from mix_core.config import load_config
from mix_core.errors import ConfigError
from mix_core.models.common.layers import Linear
from mix_core.training.freeze import freeze, frozen_names, learning_table

NAMES = [
    "visual.patch_embed.proj.weight",
    "visual.blocks.0.attn.qkv.weight",
    "visual.merger.mlp.0.weight",
    "model.embed_tokens.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "lm_head.weight",
]
TOWER, MERGER, LANGUAGE = NAMES[:3], NAMES[2:3], NAMES[3:]


def frozen(**keys: str) -> set[str]:
    return frozen_names(NAMES, load_config(arguments=keys))


def test_each_key_freezes_its_part():
    assert frozen() == set()
    assert frozen(freeze_vit="true") == set(TOWER)
    assert frozen(fix_vit="true") == set(TOWER)
    assert frozen(freeze_mlp="true") == set(MERGER)
    assert frozen(freeze_llm="true") == set(LANGUAGE)
    assert frozen(freeze_include="*attn*") == {NAMES[1], NAMES[4]}


def test_exclude_thaws_what_any_key_froze():
    assert frozen(freeze_include="*visual*", freeze_exclude="*visual.merger*") == set(TOWER) - set(MERGER)
    assert frozen(freeze_vit="true", freeze_exclude="visual.merger.*") == set(TOWER) - set(MERGER)
    assert frozen(freeze_exclude="*visual*") == set()


def test_a_pattern_without_a_match_and_a_wholly_frozen_model_are_refused():
    with pytest.raises(
        ConfigError, match=r"freeze_include '\*vision\*' matches no parameter; the model has lm_head"
    ):
        frozen(freeze_include="*vision*")
    with pytest.raises(ConfigError, match="freeze_exclude 'x' matches no parameter"):
        frozen(freeze_vit="true", freeze_exclude="x")
    with pytest.raises(ConfigError, match="every parameter is frozen"):
        frozen(freeze_vit="true", freeze_llm="true")


def test_freeze_vit_leaves_a_resampler_to_learn():
    resampler = ["visual.attn_pool.query", "visual.attn_pool.kv_proj.weight"]
    names = ["visual.conv1.weight", *resampler, "model.norm.weight"]
    assert frozen_names(names, load_config(arguments={"fix_vit": "true"})) == {names[0]}
    both = load_config(arguments={"freeze_vit": "true", "freeze_include": "*attn_pool*"})
    assert frozen_names(names, both) == set(names[:3])


def test_beneath_adapters_all_is_frozen_but_what_is_asked_to_learn():
    assert frozen(lora="true") == set(NAMES)
    assert frozen(lora="true", freeze_vit="false") == set(LANGUAGE)
    assert frozen(lora="true", vit_lr="1e-5") == set(LANGUAGE)
    assert frozen(lora="true", freeze_mlp="false") == set(NAMES) - set(MERGER)
    assert frozen(lora="true", mm_projector_lr="1e-5") == set(NAMES) - set(MERGER)
    assert frozen(lora="true", mm_projector_lr="1e-5", freeze_mlp="true") == set(NAMES)
    assert frozen(lora="true", freeze_vit="true", freeze_mlp="false") == set(NAMES)
    assert frozen(lora="true", freeze_llm="false") == set(NAMES)
    assert frozen(lora="true", freeze_exclude="lm_head.*") == set(NAMES[:-1])
    assert frozen(lora="true", freeze_vit="false", freeze_include="*patch_embed*") == {NAMES[0], *LANGUAGE}


def test_patterns_are_matched_with_published_names_and_the_table_shows_them():
    model = paddle.nn.LayerDict(
        {"q": Linear(2, 3, False), "k": Linear(2, 2, False), "out": Linear(2, 2, True)}
    )

    def published(name: str) -> str:
        return name.replace("q.", "text.layers.0.wqkv.").replace("k.", "text.layers.0.wqkv.")

    config = load_config(arguments={"freeze_include": "*wqkv*"})
    assert freeze(model, config, published) == ["out.weight", "out.bias"]
    assert [row.split() for row in learning_table(model, published).splitlines()] == [
        ["module", "parameters", "trainable"],
        ["text.layers", "10", "0"],
        ["out", "6", "6"],
        ["all", "16", "6"],
    ]


BLOCKS = [f"vision_model.encoder.layers.{i}.attn.qkv.weight" for i in range(4)]
PARTS = ["vision_model.embeddings.class_embedding", *BLOCKS, "mlp1.1.weight", "language_model.output.weight"]


def learning(**keys: str) -> set[str]:
    return set(PARTS) - frozen_names(PARTS, load_config(arguments=keys))


def test_blocks_of_a_frozen_tower_and_the_head_of_a_frozen_decoder_learn():
    rest = set(PARTS[5:])
    assert learning(freeze_backbone="true", unfreeze_vit_layers="-2") == rest | set(BLOCKS[2:])
    assert learning(freeze_backbone="true", unfreeze_vit_layers="1") == rest | set(BLOCKS[1:])
    assert learning(freeze_vit="true", freeze_llm="true", unfreeze_lm_head="true") == rest
    assert learning(lora="true", unfreeze_vit_layers="-1") == {BLOCKS[3]}


HEAD = ("freeze_llm", "unfreeze_lm_head")


def test_what_cannot_be_thawed_is_refused():
    for layers in ("4", "-5"):
        with pytest.raises(ConfigError, match=f"unfreeze_vit_layers is {layers}, and .* has 4 blocks"):
            learning(freeze_vit="true", unfreeze_vit_layers=layers)
    with pytest.raises(ConfigError, match="unfreeze_vit_layers has a say with freeze_vit only"):
        learning(unfreeze_vit_layers="-2")
    with pytest.raises(ConfigError, match="unfreeze_lm_head has a say with freeze_llm only"):
        learning(freeze_vit="true", unfreeze_lm_head="true")
    tied = [name for name in PARTS if "output" not in name]
    with pytest.raises(ConfigError, match="unfreeze_lm_head matches no parameter"):
        frozen_names([*tied, "model.norm.weight"], load_config(arguments=dict.fromkeys(HEAD, "true")))
