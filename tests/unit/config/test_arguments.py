"""The training command's arguments: forms of a key, switches, what is refused, and a fast `--help`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mix_core.config import RunConfig
from mix_core.config_text import kind_of
from mix_core.config_types import describe_type, expected_of, from_argument
from mix_core.errors import ConfigError
from mix_core.train import help_text, main, parse_arguments


def test_the_forms_of_a_key():
    request = parse_arguments(["c.json", "--lr", "1e-5", "--max_steps=7", "seed=3", "--weight-decay", "0.1"])
    assert request.config == Path("c.json")
    assert request.keys == {"lr": "1e-5", "max_steps": "7", "seed": "3", "weight-decay": "0.1"}


def test_a_switch_alone_means_true():
    words = ["--recompute", "--bf16", "false", "--no-load-optim", "--freeze_vit", "c.yaml", "--random_flip"]
    request = parse_arguments(words)
    assert request.keys == {
        "recompute": "true",
        "bf16": "false",
        "no-load-optim": "true",
        "freeze_vit": "true",
        "random_flip": "true",
    }
    assert request.config == Path("c.yaml")


def test_a_fixed_key_takes_its_value():
    words = ["--sharding_parallel_degree", "8", "--conv_style", "internlm2-chat", "--drop_path_rate", "0.1"]
    words += ["--log-tps", "data.json", "--mm-tool", "tools.json", "--swiglu", "--lr", "1e-5"]
    request = parse_arguments(words)
    assert request.config == Path("data.json")
    assert request.keys == {
        "sharding_parallel_degree": "8",
        "conv_style": "internlm2-chat",
        "drop_path_rate": "0.1",
        "log-tps": "true",
        "mm-tool": "tools.json",
        "swiglu": "true",
        "lr": "1e-5",
    }
    assert parse_arguments(["--mm-data", "data.json"]).config == Path("data.json")


def test_device_and_recipe_are_no_keys():
    request = parse_arguments(["--recipe", "digits", "--device=cpu", "--simulate", "--debug"])
    assert (request.recipe, request.device, request.keys) == ("digits", "cpu", {"simulate": "true"})


def test_negative_numbers_and_values_with_signs():
    request = parse_arguments(["--max_steps", "-1", "output_dir=a=b"])
    assert request.keys == {"max_steps": "-1", "output_dir": "a=b"}


def test_a_file_whose_name_looks_like_a_key(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a=b.json").write_text("{}")
    assert parse_arguments(["a=b.json"]).config == Path("a=b.json")


@pytest.mark.parametrize(
    "words", [["--seed"], ["--seed", "--lr", "1"], ["-x"], ["a", "b"], ["--seed", "1", "seed=2"]]
)
def test_refused(words):
    with pytest.raises(ConfigError):
        parse_arguments(words)


def test_words_for_types():
    assert expected_of(RunConfig, ["save_total_limit"]) == "a whole number of at least 1, or null"
    assert expected_of(RunConfig, ["adam_beta1"]) == "a number of at least 0 and below 1"
    assert expected_of(RunConfig, ["optim"]).startswith("one of adamw")
    assert describe_type(bool) == "true or false" and kind_of("x" * 60).endswith('..."')


@pytest.mark.parametrize(
    ("text", "annotation", "value"),
    [
        ("True", bool, True),
        ("off", bool, False),
        ("maybe", bool, "maybe"),
        ("null", int | None, None),
        ("12", int | None, 12),
        ("1e3", float, 1000.0),
        ("1e3", int, "1e3"),
        ("a,b", list[str] | None, ["a", "b"]),
        ('["a"]', list[str] | None, ["a"]),
        ("stage2", None, "stage2"),
        ("0.5", None, 0.5),
    ],
)
def test_texts_of_arguments_become_values(text, annotation, value):
    assert from_argument(text, annotation) == value


def test_help_lists_every_key_and_imports_neither_paddle_nor_torch():
    text = help_text()
    assert all(f"  {name} [" in text for name in RunConfig.model_fields)
    program = "import sys; from mix_core.train import main; main(['--help']); print('paddle' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.rstrip().endswith("False"), done.stderr


def test_no_arguments_show_the_help(capsys):
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("usage: python -m mix_core.train CONFIG|--recipe NAME")


def test_mix_core_train_is_the_same_command():
    command = [sys.executable, "-m", "mix_core.cli.main", "train"]
    helped = subprocess.run([*command, "--help"], capture_output=True, text=True)
    assert helped.returncode == 0 and helped.stdout.strip() == help_text().strip()
    refused = subprocess.run([*command, "--recipe", "digits", "--sede", "1"], capture_output=True, text=True)
    assert refused.returncode == 2 and 'the nearest key is "seed"' in refused.stderr
