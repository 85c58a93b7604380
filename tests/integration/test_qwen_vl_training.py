"""Qwen-VL learns the digits, boxes too: whole and with a frozen tower, on the CPU and on a simulated chip."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("tiktoken", reason="the vocabulary is read with tiktoken")

from mix_core.device import native
from mix_core.models import load_model
from tests.builders.qwen_vl_digits import STEPS, write_run
from tests.environment import run_simulated
from tests.goldens.make_qwen_vl import FILE, curve
from tests.integration.training_runs import train

needs_compiler = pytest.mark.skipif(
    native.find_compiler()[0] is None, reason=native.find_compiler()[1] or "there is one"
)
FROZEN = ("--freeze_vit", "true", "--max_steps", "4")


def succeed(done):
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on the CPU; its run stands in `run`."""
    folder = tmp_path_factory.mktemp("qwen_vl")
    succeed(train(write_run(folder), "--device", "cpu", "--save_strategy", "steps", "--save_steps", STEPS))
    return folder


def test_the_losses_are_the_golden_ones_and_fall(whole: Path) -> None:
    golden, found = json.loads(FILE.read_text()), curve(whole / "run")
    assert len(found) == len(golden) == STEPS
    for key in ("loss", "grad_norm", "label_tokens"):
        assert [step[key] for step in found] == pytest.approx([step[key] for step in golden], rel=2e-3), key
    assert sum(step["loss"] for step in found[-5:]) < 0.7 * sum(step["loss"] for step in found[:5])


def test_the_checkpoint_is_a_published_folder_that_answers(whole: Path) -> None:
    checkpoint = whole / "run" / f"checkpoint-{STEPS}"
    names = {"config.json", "generation_config.json", "model.safetensors", "qwen.tiktoken"}
    assert names <= {path.name for path in checkpoint.iterdir()}
    words = ["--image", whole / "data" / "box-0.png", "--prompt", "Where is the 7?", "--max_new_tokens", "12"]
    command = [sys.executable, "-m", "mix_core.cli.main", "infer", "--model", checkpoint, *words, "--json"]
    done = subprocess.run([*command, "--device", "cpu"], capture_output=True, text=True, timeout=300)
    answer = json.loads(succeed(done).stdout)
    assert isinstance(answer["text"], str) and "<|im_" not in answer["text"]


def test_a_frozen_tower_stays_and_its_resampler_learns(whole: Path, tmp_path: Path) -> None:
    """As the publisher's fix_vit, which leaves attn_pool to learn."""
    words = ["--output_dir", tmp_path, *FROZEN, "--save_strategy", "steps", "--save_steps", 4]
    succeed(train(whole / "config.json", "--device", "cpu", *words))
    family, _, first = load_model(whole / "model", random_init=True, seed=42)
    del family
    last = dict(load_model(tmp_path / "checkpoint-4")[2].named_parameters())
    moved = {
        name for name, parameter in first.named_parameters() if abs(parameter - last[name]).max().item() > 0
    }
    resampler = {name for name in last if name.startswith("visual.attn_pool.")}
    tower = {name for name in last if name.startswith("visual.")} - resampler
    assert tower and not moved & tower
    assert moved >= {name for name in resampler if name.endswith("weight")}
    assert "model.layers.1.self_attn.q_proj.weight" in moved


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("words", [(), FROZEN], ids=["whole", "frozen tower"])
def test_a_simulated_chip_has_the_cpu_s_losses(whole: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    for device, simulate in (("cpu", "0"), ("npu", "1")):
        command = ["-m", "mix_core.train", whole / "config.json", "--output_dir", tmp_path / device, *words]
        succeed(run_simulated([*command, "--device", device], tmp_path, MIX_SIMULATE=simulate))
    on_cpu, on_npu = curve(tmp_path / "cpu"), curve(tmp_path / "npu")
    assert len(on_npu) == (4 if words else STEPS) and on_npu == on_cpu
