"""Run configurations: other names, conflicts, nearest keys, types, what is not built, arguments on top."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mix_core.config import RunConfig, load_config
from mix_core.config_aliases import ALIASES, FIXED
from mix_core.errors import ConfigError

SAMPLES = Path(__file__).parent / "samples"


def load(tmp_path: Path, values: dict, **arguments: str) -> RunConfig:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(values))
    return load_config(path, arguments=arguments)


def refusal(tmp_path: Path, values: dict, **arguments: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, values, **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(tmp_path) + "/", "")


def test_published_sample_for_qwen_vl_means_what_it_says():
    config = load_config(SAMPLES / "qwen_vl_sft.json")
    assert config.packing and config.dtype == "bfloat16" and config.device == "npu"
    assert config.freeze_include == ["*visual*"] and config.freeze_exclude == ["*visual.attn_pool*"]
    assert config.dataset.train[0].data_files == "train.json"
    assert config.dataset.eval[0].data_files == "val.json"
    assert config.num_train_epochs == 10 and config.samples_per_step == 16
    assert config.progress_bar is False and config.save_total_limit == 1
    assert config.output_dir == "./checkpoints/qwen_vl_sft_ckpts"


def test_published_sample_for_internvl2_is_taken():
    config = load_config(SAMPLES / "internvl2_sft.json")
    assert (config.dtype, config.fp16_opt_level, config.max_length) == ("bfloat16", "O2", 4096)


def test_published_lora_sample_is_taken():
    config = load_config(SAMPLES / "llava_lora_sft.json", arguments={"dataset.train": "a.json"})
    assert (config.sharding, config.sharding_parallel_degree) == ("stage2", 8)
    assert (config.lora, config.lora_rank, config.mm_projector_lr) == (True, 128, 2e-5)


def test_mindspeed_data_file_counts_as_keys():
    config = load_config(SAMPLES / "mindspeed_data.json")
    assert config.dataset.train == "./data/a.json,./data/b.json"
    assert config.model_name_or_path == "./ckpt/hf_path/Qwen2.5-VL-7B-Instruct"
    assert (config.image_max_pixels, config.image_min_pixels, config.video_maxlen) == (262144, 0, 64)
    assert config.drop_last and config.shuffle and config.max_samples is None


def test_qwen_vl_command_line():
    arguments = {
        "model_name_or_path": "qwen-vl/qwen-vl-chat-7b",
        "data_path": "train.json",
        "dtype": "bfloat16",
        "fix_vit": "True",
        "num_train_epochs": "5",
        "learning_rate": "1e-5",
        "warmup_ratio": "0.01",
        "report_to": "none",
        "model_max_length": "2048",
        "lazy_preprocess": "True",
        "tensor_parallel_degree": "1",
        "pipeline_parallel_degree": "1",
        "sharding_parallel_degree": "1",
    }
    config = load_config(arguments=arguments)
    assert config.freeze_vit and config.max_length == 2048 and config.dataset.train == "train.json"
    assert config.learning_rate == 1e-5 and config.output_dir == "runs/run"
    assert (config.tensor_parallel_degree, config.sharding_parallel_degree) == (1, 1)


def test_mindspeed_command_line():
    arguments = {
        "load": "save_dir",
        "no-load-optim": "true",
        "no-load-rng": "true",
        "no-save-optim": "true",
        "save": "out",
        "save-interval": "5000",
        "log-interval": "1",
        "log-tps": "true",
        "lr": "1e-5",
        "train-iters": "100",
        "micro-batch-size": "2",
        "global-batch-size": "16",
        "clip-grad": "0.0",
    }
    config = load_config(arguments=arguments)
    assert config.resume == "save_dir" and config.output_dir == "out"
    assert not config.load_optimizer and not config.load_random_state and not config.save_optimizer
    assert config.save_random_state and config.save_steps == 5000
    assert config.gradient_accumulation_steps == 8 and config.samples_per_step == 16


def test_text_to_image_command():
    with pytest.raises(ConfigError, match="asks for levels that are drawn unevenly, not built yet"):
        load_config(arguments={"timestep_bias_strategy": "later"})
    config = load_config(
        arguments={
            "pretrained_model_name_or_path": "stable-diffusion-xl-base-1.0",
            "dataset_name": "lambdalabs/naruto-blip-captions",
            "train_batch_size": "1",
            "gradient_checkpointing": "true",
            "max_train_steps": "10000",
            "lr_scheduler": "constant",
            "lr_warmup_steps": "0",
            "mixed_precision": "fp16",
            "checkpointing_steps": "5000",
            "random_flip": "true",
            "validation_prompt": "a cat, and a dog",
        }
    )
    assert config.recompute and config.max_steps == 10000 and config.dtype == "float16"
    assert config.per_device_train_batch_size == 1 and config.save_steps == 5000
    assert config.random_flip and config.validation_prompt == ["a cat, and a dog"]


def test_unknown_keys_name_the_nearest(tmp_path):
    assert refusal(tmp_path, {"learnig_rate": 1.0}) == (
        'config.json: unknown key "learnig_rate"; the nearest key is "learning_rate"'
    )
    assert 'the nearest key is "mixed_precision"' in refusal(tmp_path, {"mixed_precison": "no"})
    assert "--help` lists the keys" in refusal(tmp_path, {"qqqq": 1})
    assert 'arguments: unknown key "sede"' in refusal(tmp_path, {}, sede="1")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"per_device_train_batch_size": "two"}, 'got the text "two", expected a whole number of at least 1'),
        ({"train_batch_size": 0}, "per_device_train_batch_size: got the number 0, expected a whole number"),
        ({"learning_rate": "1e-5"}, 'learning_rate: got the text "1e-5", expected a number of at least 0'),
        ({"warmup_ratio": 3}, "got the number 3, expected a number of at least 0 and at most 1"),
        ({"shuffle": 1}, "shuffle: got the number 1, expected true or false"),
        ({"fix_vit": "yes"}, 'fix_vit: got the text "yes", expected true or false'),
        ({"bf16": "yes"}, 'bf16: got the text "yes", expected true or false'),
        ({"lr_scheduler_type": "poly"}, "expected one of linear, cosine, constant"),
        ({"weight_decay": None}, "weight_decay: got null, expected a number"),
        ({"freeze_include": "*visual*"}, "expected a list of texts, or null"),
        ({"dataset": {"train": [{"data_file": "a"}]}}, 'unknown key "dataset.train[0].data_file"'),
        (
            {"dataset": {"train": [{"data_files": 3}]}},
            "dataset.train[0].data_files: got the number 3, expected a text",
        ),
        ({"dataset": {"trian": "a"}}, 'unknown key "dataset.trian"'),
        ({"dataset": 7}, 'dataset: got the number 7, expected {"train": ..., "eval": ...}'),
    ],
)
def test_wrong_types_name_key_got_and_expected(tmp_path, values, says):
    said = refusal(tmp_path, values)
    assert said.startswith("config.json: ") and says in said, said


@pytest.mark.parametrize(
    "values",
    [
        {"train_batch_size": 4, "per_device_train_batch_size": 8},
        {"max_seq_length": 4096, "max_length": 2048},
        {"freeze_vit": True, "fix_vit": False},
        {"bf16": True, "fp16": True},
        {"bf16": True, "mixed_precision": "no"},
        {"dtype": "bfloat16", "bf16": False},
        {"data_path": "a.json", "dataset": {"train": "b.json"}},
        {"disable_tqdm": True, "progress_bar": True},
    ],
)
def test_two_names_that_differ_are_refused(tmp_path, values):
    said = refusal(tmp_path, values)
    assert "give one" in said and all(name in said for name in values), said


def test_two_names_that_agree_are_taken(tmp_path):
    values = {"bf16": True, "fp16": False, "mixed_precision": "bf16", "dtype": "bfloat16"}
    assert load(tmp_path, values).dtype == "bfloat16"
    both = load(tmp_path, {"data_path": "a.json", "dataset": {"eval": "b.json"}})
    assert (both.dataset.train, both.dataset.eval) == ("a.json", "b.json")


def test_arguments_win_over_the_file_under_any_name(tmp_path):
    values = {"train_batch_size": 4, "bf16": True, "lora": True, "data_path": "a.json", "lr": 1.0}
    over = {"micro_batch_size": "2", "bf16": "false", "lora": "false", "learning_rate": "1e-5"}
    config = load(tmp_path, values, **over)
    assert (config.per_device_train_batch_size, config.dtype, config.learning_rate) == (2, "float32", 1e-5)
    assert load(tmp_path, values, lora="false", fp16="false").dtype == "bfloat16"
    config = load_config(tmp_path / "config.json", arguments={"lora": "false", "dataset.eval": "e.json#9"})
    assert (config.dataset.train, config.dataset.eval) == ("a.json", "e.json#9")


@pytest.mark.parametrize("name", sorted(FIXED))
def test_every_fixed_key_takes_null_and_what_asks_for_nothing(tmp_path, name):
    fixed = FIXED[name]
    values = [None, *(fixed.accepts if isinstance(fixed.accepts, tuple) else ("anything", 3))]
    for value in values:
        fixed.check(name, value, "config.json")
    if isinstance(fixed.accepts, tuple):
        with pytest.raises(ConfigError, match=name.replace(".", r"\.")):
            fixed.check(name, "something else", "config.json")


@pytest.mark.parametrize("name", sorted(ALIASES))
def test_every_alias_leads_to_a_key(name):
    assert ALIASES[name].key in RunConfig.model_fields or ALIASES[name].key in FIXED
    assert name not in RunConfig.model_fields and name not in FIXED


def test_every_key_says_what_it_means():
    for name, field in RunConfig.model_fields.items():
        assert field.description and field.description.endswith((".", ")", "`.")), name


def test_the_template_that_all_data_sets_name_is_the_runs():
    entries = [{"data_files": "a.json", "chat_template": "t.json"}, {"data_files": "b.json"}]
    config = RunConfig(dataset={"train": entries[:1], "eval": entries[1:]})
    assert config.chat_template == "t.json"
    assert RunConfig(dataset={"train": entries}).chat_template is None, "the sets differ"
    own = RunConfig(dataset={"train": entries[:1], "eval": entries}, chat_template="chatml")
    assert (own.chat_template, own.chat_templates_of_sets) == ("chatml", ["t.json"])


def test_keys_that_contradict_each_other(tmp_path):
    assert "global_batch_size 7 is not" in refusal(
        tmp_path, {"global_batch_size": 7, "per_device_train_batch_size": 2}
    )
    assert "both name the rows" in refusal(tmp_path, {"meta_path": "m.json", "data_path": "a.json"})
    assert "is the highest rate" in refusal(tmp_path, {"learning_rate": 1e-5, "min_learning_rate": 1e-4})


def test_recipes():
    config = load_config(recipe="digits")
    assert Path(config.model_name_or_path).is_absolute() and config.output_dir == "runs/digits"
    with pytest.raises(ConfigError, match='no recipe "nothing"; there are: digits'):
        load_config(recipe="nothing")


@pytest.mark.parametrize(
    ("keys", "on"),
    [
        ({}, False),
        ({"recompute_granularity": "selective"}, True),
        ({"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}, True),
        ({"recompute_method": "block", "recompute_num_layers": 2}, True),
        ({"recompute": False, "recompute_granularity": "full"}, False),
    ],
    ids=["nothing", "selective", "uniform", "block", "off"],
)
def test_a_key_about_what_is_computed_again_turns_it_on(tmp_path, keys, on):
    """MindSpeed-MM has no other switch; PaddleNLP's says no where both are given."""
    assert load(tmp_path, keys).recompute is on


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"recompute_method": "block"}, "recompute_method block needs recompute_num_layers"),
        ({"recompute_num_layers": 4}, "recompute_num_layers 4 without recompute_method block"),
        (
            {"recompute_method": "uniform", "recompute_num_layers": 2},
            "asks for 2 blocks as one, which is not",
        ),
        ({"recompute_granularity": "core_attn"}, "recompute_granularity"),
        (
            {"sequence_parallel": True, "tensor_parallel_degree": 2, "recompute_granularity": "selective"},
            "sequence_parallel keeps some of the tokens around whole blocks",
        ),
        (
            {"sharding": "stage3", "recompute_granularity": "selective"},
            "sharding stage3 computes every block again as a whole, and recompute_granularity asks for less",
        ),
    ],
    ids=["block", "number", "uniform", "core", "tokens", "stage3"],
)
def test_what_cannot_be_computed_again_is_refused(tmp_path, keys, says):
    assert says in refusal(tmp_path, keys)
