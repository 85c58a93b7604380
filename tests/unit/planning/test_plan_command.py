"""`mix-core plan`: what it prints and writes, and its exit codes."""

from __future__ import annotations

import json

import pytest

from mix_core.cli.main import build_app, guarded
from mix_core.config import load_config
from mix_core.errors import ConfigError


@pytest.fixture
def plan(capsys):
    """Run the command -> (exit code, what it printed, its errors)."""

    def run(*words: str) -> tuple[int, str, str]:
        argv = ["plan", *words]
        code = guarded(lambda: build_app()(argv, standalone_mode=False), argv)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


MODEL = ("--model", "qwen2_5_vl-7b", "--memory", "64GiB", "--seq", "4096")


def test_plans_come_with_reasons_and_sources(plan):
    code, out, _ = plan(*MODEL, "--devices", "64")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("qwen2_5_vl-7b: 8.29 billion parameters; 64 devices")
    assert "recompute" in lines[2] and "tokens/s" in lines[2] and len(lines) > 8
    assert "not: tensor 8 does not divide 28 heads" in lines
    assert any("assumed" in line and "peak_flops 300 Tflop/s" in line for line in lines)


def test_json_and_a_configuration_that_the_trainer_takes(plan, tmp_path):
    written = tmp_path / "config.json"
    code, out, err = plan(*MODEL, "--devices", "1", "--memory", "256GiB", "--json", "--out", str(written))
    assert code == 0 and str(written) in err
    found = json.loads(out)
    best = found["plans"][0]
    assert found["fitting"] <= found["layouts"] and best["data"] == best["tensor"] == best["pipeline"] == 1
    assert sum(best["decoder_layers"]) == 28 and sum(best["vision_layers"]) == 32
    memory = best["memory_bytes"][0]
    assert memory["total"] == sum(memory[part] for part in memory if part != "total") <= found["usable_bytes"]
    assert best["step_s"] == pytest.approx(
        sum(seconds for part, seconds in best["step_parts_s"].items() if part != "hidden")
    )
    config = load_config(written)
    assert config.per_device_train_batch_size == best["micro_batch"] and config.max_length == 4096
    assert config.gradient_accumulation_steps == best["passes"] and config.dtype == "bfloat16"
    assert config.recompute is (best["recompute"] != "none") and config.fp16_opt_level == "O2"


def test_updates_going_back_fit_where_all_gradients_do_not(plan, tmp_path):
    written = tmp_path / "config.json"
    alone = (*MODEL, "--devices", "1", "--global_batch", "3", "--recompute", "full", "--memory", "140GiB")
    code, _, err = plan(*alone)
    assert code == 2 and "--optimizer_in_backward" in err
    assert plan(*alone, "--optimizer_in_backward", "--out", str(written))[0] == 0
    config = load_config(written)
    assert config.optimizer_in_backward and config.max_grad_norm == 0
    assert (config.per_device_train_batch_size, config.gradient_accumulation_steps) == (3, 1)


def test_keys_that_training_does_not_take_yet_are_named(plan, tmp_path):
    written = tmp_path / "config.json"
    options = ("--recompute", "full", "--memory", "24GiB", "--out", str(written))
    code, _, err = plan(*MODEL, "--devices", "16", *options)
    assert code == 0
    keys = json.loads(written.read_text())
    layout = {"tensor_parallel_degree", "pipeline_parallel_degree", "sharding", "sharding_parallel_degree"}
    assert keys["recompute"] is True and set(keys) & layout
    try:
        load_config(written)
    except ConfigError as error:
        assert "not built in training yet: " in err and str(error)
    else:
        assert "tensor_parallel_degree" not in err


def test_a_pipeline_shows_its_stages(plan):
    splits = ("--vision_split", "32,0", "--decoder_split", "6,22")
    code, out, _ = plan(*MODEL, "--devices", "2", *splits, "--lora_rank", "16")
    assert code == 0
    assert "vision layers by stage [32, 0], decoder layers [6, 22]" in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--model", "qwen2_vl-8b", "--devices", "8", "--memory", "64GiB"), "nearest name is qwen2_vl-"),
        ((*MODEL, "--devices", "0"), "--devices is 0; expected 1 or more"),
        ((*MODEL, "--devices", "8", "--memory", "64"), "for example 64GiB"),
        ((*MODEL, "--devices", "1"), "needs 1"),
        ((*MODEL, "--devices", "61"), "no layout of 61 devices fits"),
        ((*MODEL, "--devices", "8", "--out", "plan.yaml"), "ends in .json"),
        ((*MODEL, "--devices", "2", "--optimizer_in_backward"), "give --devices 1"),
        (
            (*MODEL, "--devices", "1", "--dtype", "float16", "--optimizer_in_backward"),
            "give bfloat16 or float32",
        ),
    ],
)
def test_bad_input_is_one_line_and_code_2(plan, words, says):
    code, _, err = plan(*words)
    assert code == 2
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert says in line
