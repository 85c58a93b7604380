"""Every line of docs/migrating.md's "Line by line" is run, and has every script and flag of the guides.

Commands run in this process, one after the other, in one prepared folder: a process each would take 5 s. An
option of a training command is laid over the command of its table and the configuration is read and
checked; one of `infer` runs. What a line calls not built yet must be refused with exit code 2 and one line.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer.testing
from PIL import Image

from mix_core.cli.main import build_app, guarded
from mix_core.config import load_config
from mix_core.errors import MixError
from mix_core.train import main as train_main
from mix_core.train import parse_arguments
from tests.integration.migrating_lines import MODELS, Line, prepare, read_lines, words_for_a_cpu

LINES = read_lines()
MANY_RUNS = (
    "Ascend guide: training",
    "Qwen2.5-VL's inference",
    "Qwen-VL: `run_predict",
    "MindSpeed-MM",
    "Weights of Paddle",
)
"""Sections whose lines take many runs of a model, or leave what the slow tests look at."""
TRAIN = ("python", "-m", "mix_core.train")

IN_THE_GUIDES = {
    "scripts": (
        *("baseline_3b_bs32_1e8.sh", "single_image_infer.py", "multi_image_infer.py", "video_infer.py"),
        *("batch_infer.py", "internvl2_2b_internlm2_1_8b_dynamic_res_2nd_finetune_full.sh", "chat_demo.py"),
        *("train_text_to_image_sdxl.py", "train_text_to_image_lora_sdxl.py", "StableDiffusionXLPipeline"),
        *("train_dreambooth_sd3.py", "train_dreambooth_lora_sd3.py"),
        *("supervised_finetune.py", "train.sh", "merge_lora_params.py", "mm-convert", "hf_to_mm"),
        *(
            "llava_instruct_2_mllm_demo_format.py",
            "finetune_qwen2_5_vl_7b.sh",
            "run_predict.py",
            "finetune.py",
        ),
        *("build_env.sh", "set_env.sh", "paddle.distributed.launch", "latest_checkpointed_iteration.txt"),
    ),
    "flags": (
        *("model_name_or_path", "image_path", "text", "seed", "visual", "output_dir", "dtype", "input_image"),
        *("prompt", "data_path", "bf16", "fix_vit", "num_train_epochs", "per_device_train_batch_size"),
        *("gradient_accumulation_steps", "save_steps", "save_strategy", "save_total_limit", "learning_rate"),
        *("weight_decay", "adam_beta2", "warmup_ratio", "lr_scheduler_type", "logging_steps", "report_to"),
        *("model_max_length", "lazy_preprocess", "sharding", "tensor_parallel_degree", "fp16_opt_level"),
        *("sharding_parallel_degree", "pipeline_parallel_degree", "freeze_include", "freeze_exclude"),
        *("dataset.train", "dataset.eval", "mixtoken", "device", "overwrite_output_dir", "do_train", "fp16"),
        *("per_device_eval_batch_size", "eval_accumulation_steps", "evaluation_strategy", "max_length"),
        *("benchmark", "skip_memory_metrics", "lora", "lora_rank", "lora_alpha", "lora_dropout"),
        *("lora_target_modules", "lora_path", "merge_model_path", "cfg.mm_dir", "cfg.hf_config.hf_dir"),
        *("cfg.parallel_config.llm_pp_layers", "cfg.parallel_config.vit_pp_layers"),
        *("cfg.parallel_config.tp_size", "dataset_dir", "cache_dir", "max_samples", "no-load-optim"),
        *("no-load-rng", "no-save-optim", "no-save-rng", "log-interval", "save-interval", "log-tps"),
        *("enable-dummy-optimizer", "LOAD_PATH", "SAVE_PATH", "NPUS_PER_NODE", "MASTER_ADDR", "WORLD_SIZE"),
        *("pretrained_model_name_or_path", "pretrained_vae_model_name_or_path", "dataset_name", "resolution"),
        *("center_crop", "random_flip", "proportion_empty_prompts", "train_batch_size", "max_train_steps"),
        *(
            "gradient_checkpointing",
            "lr_scheduler",
            "lr_warmup_steps",
            "mixed_precision",
            "validation_prompt",
        ),
        *("validation_epochs", "checkpointing_steps", "caption_column", "FLAGS_use_cuda_managed_memory"),
    ),
}


@pytest.mark.parametrize("kind", IN_THE_GUIDES)
def test_every_script_and_flag_of_the_guides_has_a_line(kind):
    there = "\n".join(f"{line.section} {line.there}" for lines in LINES.values() for line in lines)
    assert [name for name in IN_THE_GUIDES[kind] if name not in there] == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("migrating"))


@pytest.fixture(autouse=True)
def stay_offline(monkeypatch, folder):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"hello\n/exit\n")))


def run(words: list[str]) -> int:
    """The exit code of a command that runs in this process."""
    if tuple(words[:3]) == TRAIN or words[:2] == ["mix-core", "train"]:
        return train_main(words[3 if words[0] == "python" else 2 :])
    arguments = words[1:]
    if "--kernels" in words:  # chosen once in a process
        return subprocess.run([sys.executable, "-m", "mix_core.cli.main", *arguments]).returncode
    try:
        return guarded(lambda: build_app()(args=arguments, standalone_mode=False), arguments)
    except Exception as error:
        if not hasattr(error, "format_message"):  # the parser's own: an unknown option or command
            raise
        print(error.format_message(), file=sys.stderr)
        return error.exit_code


def check(words: list[str]) -> int:
    """The exit code that a training command's arguments and configuration lead to."""
    try:
        request = parse_arguments(words[3:])
        load_config(request.config, arguments=request.keys)
    except MixError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def outcome(line: Line, command: str) -> int:
    words = words_for_a_cpu(command)
    return check(words) if line.is_option() and tuple(words[:3]) == TRAIN else run(words)


@pytest.mark.parametrize(
    "section",
    [pytest.param(name, marks=[pytest.mark.slow] if name.startswith(MANY_RUNS) else []) for name in LINES],
)
def test_every_line_does_what_it_says(section, capsys, use_plugins):
    use_plugins("mix_device_npu", "mix_device_xpu")
    wrong = []
    for line in LINES[section]:
        for command in line.commands():
            code = outcome(line, command)
            said = capsys.readouterr().err
            errors = [one for one in said.splitlines() if one.startswith("error: ")]
            if code != line.expected or len(errors) > 1 or "Traceback" in said:
                wrong.append((command, f"exit {code}, expected {line.expected}", said[-300:]))
    assert not wrong, "\n".join(map(str, wrong))


@pytest.mark.slow
def test_what_the_lines_leave_behind(folder):
    """Runs after the lines above, in their folder."""
    answers = [json.loads(one) for one in (folder / "answers.jsonl").read_text().splitlines()]
    assert [one["row"] for one in answers] == [1, 2, 3, 4] and answers[0]["text"] == answers[2]["text"]
    assert len(list((folder / "mm_7b/release").glob("mp_rank_00_00?/model_optim_rng.pt"))) == 4
    assert len(list((folder / "mm_7b_two/release").glob("mp_rank_00_00?/model_optim_rng.pt"))) == 2
    assert (folder / "save_dir/checkpoint-2/model.safetensors").is_file()
    weights = [folder / name / "model.safetensors" for name in ("published_3b", "its source")]
    assert weights[0].stat().st_size > 0 and (folder / "paddle_3b/model_state.pdparams").is_file()


def test_every_model_that_the_page_names_is_prepared():
    named = {
        word
        for lines in LINES.values()
        for line in lines
        for command in line.commands()
        for before, word in zip(words_for_a_cpu(command), words_for_a_cpu(command)[1:])
        if before in ("--model", "--model_name_or_path", "--model_path")
    }
    assert named <= set(MODELS)


def test_an_address_a_picture_of_several_and_a_folder_for_predictions(folder, tmp_path):
    """What run_predict.py's options do beyond being taken, on a model that recites a box."""
    from tests.integration.reciting_model import write_reciting_model

    model = write_reciting_model(tmp_path / "m", "<ref>it</ref><box>(250,250),(750,750)</box>", whole=True)
    base = ["infer", "--model_name_or_path", str(model), "--text", "where?"]
    pictures = ["--input_image", str(folder / "picture.jpg"), "--input_image", str(folder / "other.jpg")]
    runner = typer.testing.CliRunner()
    out = tmp_path / "predictions"
    done = runner.invoke(build_app(), [*base, *pictures, "--output_dir", str(out)], catch_exceptions=False)
    assert done.exit_code == 0 and os.listdir(out) == ["pred.jpg"]
    off = [*base, *pictures, "--output_dir", str(tmp_path / "off"), "--visual", "False"]
    runner.invoke(build_app(), off, catch_exceptions=False)
    assert not (tmp_path / "off").exists()
    Image.new("RGB", (600, 30), "white").save(tmp_path / "wide.png")
    several = [*pictures[:2], "--image", str(tmp_path / "wide.png"), "--draw", str(tmp_path / "d.png")]
    for number, shape in ((None, (600, 30)), (2, (600, 30)), (1, (560, 400))):
        chosen = [] if number is None else ["--draw_on", str(number)]
        runner.invoke(build_app(), [*base, *several, *chosen], catch_exceptions=False)
        with Image.open(tmp_path / "d.png") as drawn:
            assert drawn.size == shape
    argv = [*base, *several, "--draw_on", "3"]
    assert guarded(lambda: build_app()(args=argv, standalone_mode=False), argv) == 2
